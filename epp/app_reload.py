"""Puts a changed configuration in force while requests are under way.

A whole pipeline is built beside the one that runs, and one reference is swapped; plugins that are the same go on with their
state, and a request ends on the pipeline that it began with. A configuration that is wrong changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from epp.api import Background, EndpointListener, Plugin, StateKeeper
from epp.config import Environment, InvalidConfig, Loaded, Pipeline, Registry, Severity, build, resolved_of
from epp.config.roles import METRICS_EXTRACTOR, METRICS_SOURCE
from epp.director.director import Director
from epp.observability.bodies import log_needs
from epp.observability.logs import INFO, log_event

_log: Final = logging.getLogger("epp.config")

_BETWEEN_STEPS_S: Final = 0.002  # of a plugin that retires; steps one after another would take half of the time away

StartupParts = Callable[[Pipeline], Mapping[str, object]]


def log_warnings(pipeline: Pipeline) -> None:
    """A line for everything that is sloppy in the configuration, as `epp check` shows it."""
    for problem in resolved_of(pipeline).warnings:
        _log.warning("%s", problem)


def startup_parts(pipeline: Pipeline) -> dict[str, object]:
    """What the service reads of a configuration once, when it starts: by name, something to compare."""
    resolved = resolved_of(pipeline)
    parts: dict[str, object] = {}
    for type_name in (METRICS_SOURCE, METRICS_EXTRACTOR):
        spec = next((s for s in resolved.plugins.values() if s.type == type_name), None)
        parts[type_name] = spec and spec.params
    parts["dataLayer.sources"] = [
        [(resolved.plugins[name].type, resolved.plugins[name].params) for name in (source.source, *source.extractors)]
        for source in resolved.data_layer.sources
        if resolved.plugins[source.source].type != METRICS_SOURCE
    ]
    discovery = resolved.data_layer.discovery
    spec = resolved.plugins[discovery] if discovery else None
    parts["dataLayer.discovery"] = spec and (spec.type, spec.params)
    parts["featureGates"] = resolved.feature_gates
    return parts


class Reloader:
    """Swaps the pipeline of `director`. Everything is called on the event loop.

    `parts` gives what of a pipeline only a restart changes. `problems` says what is wrong with the file as it is now, and
    `waits_for_restart` which of its parts are not in force; both are empty when all is well.
    """

    def __init__(
        self,
        director: Director,
        registry: Registry,
        environment: Environment,
        *,
        parts: StartupParts = startup_parts,
    ) -> None:
        self._director = director
        self._registry = registry
        self._environment = environment
        self._parts = parts
        self._started_with = parts(director.pipeline)
        self._working: list[Background] = []
        self._plugins = list(director.pipeline.plugins.values())
        self._pipelines = weakref.WeakSet((director.pipeline,))
        self.problems: tuple[str, ...] = ()
        self.waits_for_restart: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """For the readiness page: what an operator should know though requests are served."""
        config_hash = self._director.pipeline.config_hash
        notes = [f"configuration: {problem}" for problem in self.problems]
        if notes:
            notes.append(f"configuration: in force is the one with hash {config_hash}")
        notes += [f"configuration: {part} needs a restart to change" for part in self.waits_for_restart]
        return notes

    def start_background(self) -> None:
        """Start the background work of the pipeline in force, where it has not begun."""
        self._start(self._director.pipeline)

    def stop_background(self) -> None:
        """Stop all background work: the service stops."""
        while self._working:
            _stop(self._working.pop())

    def refuse(self, *problems: str) -> None:
        """The file cannot be used. What is in force stays."""
        self._director.recorder.config_reloaded("refused")
        in_force = self._director.pipeline.config_hash
        log_event(_log, logging.ERROR, "configuration refused", problems=list(problems), in_force=in_force)
        self.problems = problems

    def apply(self, loaded: Loaded) -> bool:
        """Put `loaded` in force; whether it now is. Never raises for what is wrong with it."""
        old = self._director.pipeline
        if loaded.config is not None and loaded.config.built_in:
            # What an editor leaves for a moment when it writes in place; at the start it means the built-in default.
            self.refuse("the file is empty")
            return False
        try:
            new = build(loaded, self._registry, self._environment, reuse=old)
            parts = self._parts(new)
        except InvalidConfig as error:
            self.refuse(*(str(p) for p in error.problems if p.severity is Severity.ERROR))
            return False
        # Plugins and their parameters may be third-party code: whatever it raises must leave the old pipeline alone.
        except Exception as error:
            _log.exception("the configuration cannot be built")
            self.refuse(f"it cannot be built: {type(error).__name__}: {error}")
            return False
        self.problems = ()
        if new.config_hash == old.config_hash:
            self._director.recorder.config_reloaded("unchanged")
            log_event(_log, INFO, "configuration unchanged", config_hash=old.config_hash)
            return True
        self._swap(old, new)
        self._say_what_waits(parts)
        return True

    def _swap(self, old: Pipeline, new: Pipeline) -> None:
        director = self._director
        _hand_over(old, new)
        self._start(new)
        known = {id(plugin) for plugin in self._plugins}
        made = [plugin for plugin in new.plugins.values() if id(plugin) not in known]
        self._plugins += made
        # Before the first request sees them: a plugin that knows no endpoints would decide on nothing.
        for plugin in made:
            if isinstance(plugin, EndpointListener):
                director.datastore.add_listener(plugin)
        self._pipelines.add(new)
        self._tidy_after(old)
        director.use(new)
        director.recorder.config_loaded(new.config_hash)
        director.recorder.config_reloaded("applied")
        kept = [name for name, plugin in new.plugins.items() if old.plugins.get(name) is plugin]
        log_event(
            _log,
            INFO,
            "configuration applied",
            config_hash=new.config_hash,
            before=old.config_hash,
            kept=kept,
            made=[name for name in new.plugins if name not in kept],
            gone=[name for name in old.plugins if name not in kept],
        )
        log_warnings(new)
        log_needs(_log, new)

    def _tidy_after(self, old: Pipeline) -> None:
        """Keep the plugins of `old`, and tell them of endpoints, until its last request has ended: they still read rows."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is told any more
                loop.call_soon_threadsafe(self._tidy)

        weakref.finalize(old, gone).atexit = False

    def _tidy(self) -> None:
        used = {id(plugin) for pipeline in self._pipelines for plugin in pipeline.plugins.values()}
        for plugin in [known for known in self._plugins if id(known) not in used]:
            self._plugins.remove(plugin)
            if isinstance(plugin, EndpointListener):
                self._director.datastore.remove_listener(plugin)
            if isinstance(plugin, Background) and plugin in self._working:
                self._working.remove(plugin)
                _stop(plugin)
            try:
                self._retire(plugin, plugin.retire())
            except Exception as error:
                self._director.recorder.plugin_failed("Retire", plugin, error)

    def _retire(self, plugin: Plugin, steps: Iterator[None]) -> None:
        """One step, and later the next."""
        try:
            next(steps)
        except StopIteration:
            return
        # The plugin may be third-party code.
        except Exception as error:
            self._director.recorder.plugin_failed("Retire", plugin, error)
            return
        asyncio.get_running_loop().call_later(_BETWEEN_STEPS_S, self._retire, plugin, steps)

    def _start(self, pipeline: Pipeline) -> None:
        for plugin in pipeline.background:
            if any(known is plugin for known in self._working):
                continue
            self._working.append(plugin)
            try:
                plugin.start()
            # The plugin may be third-party code; it then works without what it would have begun.
            except Exception:
                _log.exception("the background work of plugin %s does not start", plugin.name)

    def _say_what_waits(self, parts: Mapping[str, object]) -> None:
        waiting = tuple(name for name, value in parts.items() if self._started_with.get(name) != value)
        for name in waiting:
            if name not in self.waits_for_restart:
                _log.warning("the configuration changes %s, which needs a restart", name)
        self.waits_for_restart = waiting


def _hand_over(old: Pipeline, new: Pipeline) -> None:
    """What a plugin has learned goes to the one that takes its place with other parameters."""
    for name, plugin in new.plugins.items():
        before = old.plugins.get(name)
        if before is plugin or not isinstance(plugin, StateKeeper) or not isinstance(before, type(plugin)):
            continue
        try:
            plugin.take_over(before)
        # Third-party code: what it raises costs what it knew.
        except Exception:
            _log.exception("plugin %s starts anew: it cannot take over what it has learned", name)


def _stop(plugin: Background) -> None:
    try:
        plugin.stop()
    # As above: third-party code.
    except Exception:
        _log.exception("the background work of plugin %s does not stop", plugin.name)
