"""The configuration while it is being resolved: the plugins declared so far, and how other parts refer to them."""

from __future__ import annotations

from collections.abc import Sequence

from epp.api import ConfigError, Plugin
from epp.config.document import plain
from epp.config.flow_control import POLICY_TYPES
from epp.config.model import ConfigFile, PluginEntry, Reference
from epp.config.params import decode_params
from epp.config.problems import Place, Problems, did_you_mean
from epp.config.registry import Registry
from epp.config.resolved import LeftOut, PluginSpec
from epp.config.roles import words_for


class Draft:
    """`specs` is in configuration order, plugins added by default after the declared ones: those of `always` first."""

    def __init__(
        self,
        config: ConfigFile,
        registry: Registry,
        problems: Problems,
        *,
        allow_experimental: bool,
        always: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.registry = registry
        self.problems = problems
        self.specs: dict[str, PluginSpec] = {}
        self.entries: dict[str, PluginEntry] = {}
        self.left_out: dict[str, LeftOut] = {}
        self.broken: set[str] = set()  # declared, and already reported as unusable
        self._allow_experimental = allow_experimental
        for entry in config.plugins:
            if not problems.full:
                self._declare(entry)
        for type_name in always:
            self.add_default(type_name)

    def of_kind(self, kind: type[Plugin]) -> list[PluginSpec]:
        return [s for s in self.specs.values() if issubclass(s.cls, kind)]

    def of_type(self, type_name: str) -> PluginSpec | None:
        """The first instance of a type."""
        return next((s for s in self.specs.values() if s.type == type_name), None)

    def look_up(self, reference: Reference, *, kind: type[Plugin] | None = None, word: str = "") -> PluginSpec | None:
        """The plugin that `reference` names. None after a problem was reported: not there, or not a `kind`."""
        spec = self.specs.get(reference.name)
        if spec is None:
            if reference.name in self.left_out:
                self.problems.error(
                    reference.place, f'"{reference.name}" belongs to flow control and cannot be used here'
                )
            elif reference.name not in self.broken:
                self.problems.error(reference.place, self._no_plugin(reference.name))
            return None
        if kind is not None and not issubclass(spec.cls, kind):
            self.problems.error(reference.place, f'expected {word}: "{spec.name}" is {words_for(spec.cls, spec.type)}')
            return None
        return spec

    def add_default(self, type_name: str) -> PluginSpec | None:
        """An instance of `type_name`: the first declared one, else one with default parameters, under the type's name."""
        existing = self.of_type(type_name)
        if existing is not None:
            return existing
        if type_name in self.broken:
            return None
        taken = self.specs.get(type_name)
        if taken is not None or type_name in self.left_out:
            place = self.entries[type_name].name_place if type_name in self.entries else Place()
            message = f'the name "{type_name}" is needed for a default plugin of that type; choose another one'
            self.problems.error(place, message)
            return None
        return self._add(type_name)

    def add_named(self, reference: Reference) -> None:
        """An instance of the type that `reference` names, under that name, unless a plugin has it. The Go EPP adds what a
        configuration leaves out before it looks references up, so that they find it."""
        name = reference.name
        if name in self.entries or name in self.specs:
            return
        other = self.of_type(name)
        if other is not None:
            message = f'no plugin is named "{name}": one with default parameters is added beside "{other.name}"'
            self.problems.warning(reference.place, message)
        self._add(name)

    def _add(self, type_name: str) -> PluginSpec | None:
        try:
            cls = self.registry.find(type_name)
        except ConfigError as error:
            self.problems.error(Place(), f"a default plugin is missing: {error}")
            self.broken.add(type_name)
            return None
        decoded = decode_params(cls, None, Place(), self.problems, defaults=self.registry.defaults_of(type_name))
        if decoded is None:
            self.broken.add(type_name)
            return None
        spec = PluginSpec(type_name, type_name, cls, decoded[0], {}, True, Place())
        self.specs[type_name] = spec
        return spec

    def _declare(self, entry: PluginEntry) -> None:
        if not entry.type:
            self.broken.add(entry.name)
            return
        cls = self._find(entry)
        type_name = self.registry.current_name(entry.type)
        name = entry.name or (cls.type if cls is not None and ":" in entry.type else entry.type)
        if name in self.entries:
            line = self.entries[name].place.line
            place = entry.name_place if entry.name else entry.type_place
            self.problems.error(
                place, f'another plugin is named "{name}" (line {line}); give this one a name of its own'
            )
            return
        self.entries[name] = entry
        decoded = None
        if cls is not None:
            decoded = decode_params(
                cls,
                entry.parameters,
                entry.parameters_place,
                self.problems,
                defaults=self.registry.defaults_of(type_name),
            )
        elif entry.type in POLICY_TYPES:
            self._leave_out(entry, name)
            return
        if cls is None or decoded is None:
            self.broken.add(name)
            return
        params, written = decoded
        self.specs[name] = PluginSpec(name, type_name, cls, params, written, self.config.built_in, entry.place)

    def _find(self, entry: PluginEntry) -> type[Plugin] | None:
        if entry.type in POLICY_TYPES and entry.type not in self.registry:
            return None
        try:
            cls = self.registry.find(entry.type)
        except ConfigError as error:
            self.problems.error(entry.type_place, str(error))
            return None
        instead = self.registry.deprecation(entry.type)
        if instead:
            self.problems.warning(entry.type_place, f'plugin type "{entry.type}" is deprecated: {instead}')
        if cls.experimental and not self._allow_experimental:
            message = f'plugin type "{entry.type}" is experimental: allow it with --allow-experimental-plugins'
            self.problems.error(entry.type_place, message)
        return cls

    def _leave_out(self, entry: PluginEntry, name: str) -> None:
        written = plain(entry.parameters) if entry.parameters is not None else {}
        self.left_out[name] = LeftOut(name, entry.type, written)
        message = f'"{entry.type}" belongs to flow control, which is not part of this version: the plugin is left out'
        self.problems.warning(entry.type_place, message)

    def _no_plugin(self, name: str) -> str:
        by_type = next((s.name for s in self.specs.values() if s.type == name), None)
        if by_type is not None:
            return f'no plugin is named "{name}"; the plugin of that type is named "{by_type}"'
        names = [*self.specs, *self.left_out, *self.broken]
        hint = did_you_mean(name, names)
        if not hint and name in self.registry:
            hint = "; add it to plugins, as {type: " + name + "}"
        return f'no plugin is named "{name}"{hint}'
