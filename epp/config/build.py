"""From a configuration as written to a pipeline that runs: fills in defaults, makes plugins, checks how they fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from epp.api import (
    ConfigError,
    DataProducer,
    Filter,
    Parser,
    Picker,
    Plugin,
    ProfileHandler,
    SaturationDetector,
    Scorer,
)
from epp.config.draft import Draft
from epp.config.environment import Environment
from epp.config.model import FEATURE_GATES, Loaded
from epp.config.pipeline import Pipeline
from epp.config.problems import InvalidConfig, Problems
from epp.config.producers import DataFlow, fill_in
from epp.config.profiles import resolve_handler, resolve_profiles
from epp.config.references import parameter_place, references_of, warn_of_idle_deciders
from epp.config.registry import Registry
from epp.config.resolved import PluginSpec, ProfileSpec, Resolved, config_hash
from epp.config.services import (
    add_in_flight_accounting,
    resolve_data_layer,
    resolve_detector,
    resolve_flow_control,
    resolve_parsers,
)
from epp.scheduling.profile import Profile
from epp.scheduling.scheduler import Scheduler

P = TypeVar("P", bound=Plugin)

# A plugin may begin its ConfigError with the parameter that it speaks of: `conditions[0].maxValue: must be ...`.
_PARAMETER = re.compile(r"([A-Za-z]\w*(?:\[\d+\]|\.\w+)*): ", re.ASCII)


def build(loaded: Loaded, registry: Registry, environment: Environment, *, reuse: Pipeline | None = None) -> Pipeline:
    """The pipeline of a configuration. Its `settings` hold `resolved` (a Resolved: see `resolved_of`), `feature_gates`,
    `data_layer` and `flow_control`.

    Plugins of `reuse` whose name, type and parameters are the same go on in the new pipeline with their state. Raises
    InvalidConfig with everything that is wrong, what `loaded` brought along included.
    """
    if loaded.config is None:
        raise InvalidConfig(loaded.problems)
    problems = Problems(loaded.config.file, loaded.problems)
    draft = Draft(
        loaded.config, registry, problems, allow_experimental=environment.allow_experimental, always=environment.always
    )
    profiles = resolve_profiles(draft)
    resolved = Resolved(
        file=loaded.config.file,
        plugins={},
        profiles=profiles,
        handler=resolve_handler(draft, profiles),
        parsers=resolve_parsers(draft),
        saturation_detector=resolve_detector(draft),
        data_layer=resolve_data_layer(draft),
        flow_control=resolve_flow_control(draft),
        feature_gates=FEATURE_GATES | loaded.config.feature_gates,
        left_out=tuple(draft.left_out.values()),
    )
    add_in_flight_accounting(draft)
    return _Assembly(draft, environment, reuse).pipeline(resolved)


def resolved_of(pipeline: Pipeline) -> Resolved:
    """What `pipeline` was built from, defaults filled in."""
    resolved = pipeline.settings["resolved"]
    assert isinstance(resolved, Resolved)
    return resolved


class _Assembly:
    """Makes the plugins of one draft and puts them together."""

    def __init__(self, draft: Draft, environment: Environment, reuse: Pipeline | None) -> None:
        self._draft = draft
        self._environment = environment
        self._old = reuse
        self._old_resolved = resolved_of(reuse) if reuse is not None else None
        self._profile_names: tuple[str, ...] = ()
        self._plugins: dict[str, Plugin] = {}
        self._being_made: list[str] = []  # each because the one before refers to it
        self._referred: set[str] = set()

    def pipeline(self, resolved: Resolved) -> Pipeline:
        draft, problems = self._draft, self._draft.problems
        self._profile_names = tuple(p.name for p in resolved.profiles)
        flow = DataFlow(draft)
        fill_in(draft, flow, self._create)
        flow.check()
        warn_of_idle_deciders(draft, self._referred)
        producers = flow.ordered()
        self._check_profile_handler(resolved)
        self._check_parsers(resolved)
        if problems.failed:
            raise InvalidConfig(problems.found)
        resolved = msgspec.structs.replace(
            resolved,
            plugins=dict(draft.specs),
            producers=producers,
            produces={n: k for n, k in flow.produces.items() if k},
            consumes={n: k for n, k in flow.consumes.items() if k},
            warnings=problems.found,
        )
        return self._assemble(resolved)

    def _assemble(self, resolved: Resolved) -> Pipeline:
        observer = self._environment.observer
        profiles = {p.name: self._profile(p) for p in resolved.profiles}
        return Pipeline(
            plugins={name: self._plugins[name] for name in resolved.plugins},
            producers=[self._get(name, DataProducer) for name in resolved.producers],
            parsers=[self._get(name, Parser) for name in resolved.parsers],
            scheduler=Scheduler(profiles, self._get(resolved.handler, ProfileHandler), observer=observer),
            saturation_detector=self._get(resolved.saturation_detector, SaturationDetector),
            config_hash=config_hash(resolved),
            settings={
                "resolved": resolved,
                "feature_gates": resolved.feature_gates,
                "data_layer": resolved.data_layer,
                "flow_control": resolved.flow_control,
            },
        )

    def _profile(self, spec: ProfileSpec) -> Profile:
        return Profile(
            spec.name,
            filters=[self._get(name, Filter) for name in spec.filters],
            scorers=[(self._get(name, Scorer), weight) for name, weight in spec.scorers],
            picker=self._get(spec.picker, Picker),
            observer=self._environment.observer,
        )

    def _get(self, name: str, kind: type[P]) -> P:
        plugin = self._plugins[name]
        assert isinstance(plugin, kind)
        return plugin

    def _create(self, spec: PluginSpec) -> Plugin | None:
        """The plugin of `spec`, kept or made, after those that it refers to; None after a problem was reported."""
        if spec.name in self._plugins or spec.name in self._draft.broken:
            return self._plugins.get(spec.name)
        self._being_made.append(spec.name)
        others = self._others(spec)
        self._being_made.pop()
        plugin = None
        if others is not None:
            plugin = self._kept(spec, others) or self._make(spec, others)
        if plugin is None:
            self._draft.broken.add(spec.name)
            return None
        self._plugins[spec.name] = plugin
        return plugin

    def _make(self, spec: PluginSpec, others: Mapping[str, Plugin]) -> Plugin | None:
        try:
            return spec.cls(spec.params, self._environment.handle(spec.name, plugins=others))
        except ConfigError as error:
            self._report(spec, str(error))
        # The plugin may be third-party code: whatever it raises must not hide the other problems. sys.exit would end the
        # process without a word.
        except (Exception, SystemExit) as error:
            self._environment.log.exception("plugin %s does not start", spec.name)
            self._report(spec, f"the plugin does not start: {type(error).__name__}: {error}")
        return None

    def _others(self, spec: PluginSpec) -> dict[str, Plugin] | None:
        """The plugins that `spec` refers to, by name; None after a problem was reported."""
        references = references_of(self._draft, spec)
        if references is None:
            return None
        others: dict[str, Plugin] = {}
        for path, target in references:
            self._referred.add(target.name)
            if target.name in self._being_made:
                cycle = [*self._being_made[self._being_made.index(target.name) :], target.name]
                self._report(spec, f"{path}: plugins refer to each other: {' → '.join(cycle)}")
                return None
            plugin = self._create(target)
            if plugin is None:
                return None
            others[target.name] = plugin
        return others

    def _kept(self, spec: PluginSpec, others: Mapping[str, Plugin]) -> Plugin | None:
        """The old pipeline's plugin, when this one is to be the same and would be handed the same `others`."""
        if self._old is None or self._old_resolved is None:
            return None
        before = self._old_resolved.plugins.get(spec.name)
        if before is None or (before.cls, before.type, before.params) != (spec.cls, spec.type, spec.params):
            return None
        if any(self._old.plugins.get(name) is not other for name, other in others.items()):
            return None
        # A handler learns the names of its profiles, and the old pipeline still runs with the old names.
        old_names = tuple(p.name for p in self._old_resolved.profiles)
        if issubclass(spec.cls, ProfileHandler) and old_names != self._profile_names:
            return None
        return self._old.plugins.get(spec.name)

    def _check_profile_handler(self, resolved: Resolved) -> None:
        handler = self._plugins.get(resolved.handler)
        if not isinstance(handler, ProfileHandler):
            return
        try:
            handler.check_profiles(self._profile_names)
        except ConfigError as error:
            self._report(self._draft.specs[handler.name], str(error))
        # As above: third-party code.
        except (Exception, SystemExit) as error:
            self._report(
                self._draft.specs[handler.name], f"the profiles cannot be checked: {type(error).__name__}: {error}"
            )

    def _check_parsers(self, resolved: Resolved) -> None:
        """Parsers after one that takes every path are never asked."""
        fallback = ""
        for name in resolved.parsers:
            parser = self._plugins.get(name)
            if fallback:
                message = f'"{name}" is never asked: "{fallback}" before it takes every path; put that one last'
                self._draft.problems.warning(self._draft.specs[name].place, message)
            elif isinstance(parser, Parser) and self._takes_every_path(parser):
                fallback = name

    def _takes_every_path(self, parser: Parser) -> bool:
        try:
            return not parser.paths()
        # As above: third-party code.
        except (Exception, SystemExit) as error:
            self._report(self._draft.specs[parser.name], f"its paths cannot be read: {type(error).__name__}: {error}")
            return False

    def _report(self, spec: PluginSpec, message: str) -> None:
        place = spec.place
        named = _PARAMETER.match(message)
        inner = parameter_place(self._draft, spec, named.group(1)) if named else None
        if named and inner is not None:
            place, message = inner, message[named.end() :]
        self._draft.problems.error(place, message)
