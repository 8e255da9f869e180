"""Which class a plugin type is: the in-tree table, installed packages (entry-point group `epp.plugins`), `module:Class`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from epp.api import ConfigError, Plugin
from epp.config.flow_control import POLICY_TYPES
from epp.config.params import inspect_params
from epp.config.problems import did_you_mean

ENTRY_POINT_GROUP: Final = "epp.plugins"

_MODULE_AND_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Registry:
    """Plugin classes by type.

    `aliases` maps a former type name to the one that takes the same parameters; `replaced` maps a deprecated type to those
    that do its work today; `defaults` are values of parameters, by type, that the surroundings set where a
    configuration gives none. Classes of installed packages are imported when their type is asked for. Raises ConfigError when
    two plugins claim one type.
    """

    def __init__(
        self,
        builtin: Mapping[str, type[Plugin]],
        *,
        aliases: Mapping[str, str] | None = None,
        replaced: Mapping[str, Sequence[str]] | None = None,
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
        installed: Iterable[EntryPoint] = (),
    ) -> None:
        self._builtin = dict(builtin)
        self._aliases = dict(aliases or {})
        self._replaced = dict(replaced or {})
        self._defaults = dict(defaults or {})
        self._installed: dict[str, EntryPoint] = {}
        for point in installed:
            self._add_installed(point)
        self._known = {*self._builtin, *self._installed}

    @classmethod
    def with_installed(
        cls,
        builtin: Mapping[str, type[Plugin]],
        *,
        aliases: Mapping[str, str] | None = None,
        replaced: Mapping[str, Sequence[str]] | None = None,
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Registry:
        """Also offers the plugins of the packages that are installed beside this one."""
        points = entry_points(group=ENTRY_POINT_GROUP)
        return cls(builtin, aliases=aliases, replaced=replaced, defaults=defaults, installed=points)

    def types(self) -> tuple[str, ...]:
        """Every type that has a name, in-tree ones first."""
        return (*self._builtin, *self._installed)

    def inspect_builtin(self) -> None:
        """Look at the parameters of every in-tree type ahead of time: 20 ms that no reload then takes from requests."""
        for cls in self._builtin.values():
            inspect_params(cls)

    def defaults_of(self, type_name: str) -> Mapping[str, Any]:
        """Values that the surroundings set of parameters which a configuration does not give."""
        return self._defaults.get(type_name, {})

    def __contains__(self, type_name: str) -> bool:
        return type_name in self._known

    def current_name(self, type_name: str) -> str:
        """The type's present name: another one where `type_name` is an alias."""
        return type_name if type_name in self._known else self._aliases.get(type_name, type_name)

    def deprecation(self, type_name: str) -> str | None:
        """What to use in place of a deprecated type, as a phrase; None when it is not deprecated."""
        alias = self._aliases.get(type_name)
        if alias in self._known and type_name not in self._known:
            return f'use "{alias}", which takes the same parameters'
        replacements = self._replaced.get(type_name, ())
        if not replacements or not self._known.issuperset(replacements):
            return None
        return "use " + " and ".join(f'"{name}"' for name in replacements)

    def builtin(self, type_name: str) -> type[Plugin] | None:
        return self._builtin.get(type_name)

    def find(self, type_name: str) -> type[Plugin]:
        """The class. Raises ConfigError when there is none, or when it cannot be imported."""
        name = self.current_name(type_name)
        if name in self._builtin:
            return self._builtin[name]
        if name in self._installed:
            return self._import_installed(name)
        if _MODULE_AND_CLASS.fullmatch(name):
            return _import_class(name)
        raise ConfigError(f'unknown plugin type "{type_name}"{self._hint(type_name)}')

    def _hint(self, type_name: str) -> str:
        instead = self.deprecation(type_name)
        if instead:
            return f"; it is no longer there, {instead}"
        return did_you_mean(type_name, (*self.types(), *self._aliases, *POLICY_TYPES))

    def _add_installed(self, point: EntryPoint) -> None:
        earlier = self._installed.get(point.name)
        if earlier is not None and earlier.value == point.value:
            return  # one package seen twice on the path
        if point.name in self._builtin or point.name in self._aliases:
            raise ConfigError(f'{_owner(point)} claims the plugin type "{point.name}", which is a built-in one')
        if earlier is not None:
            raise ConfigError(f'{_owner(earlier)} and {_owner(point)} both claim the plugin type "{point.name}"')
        self._installed[point.name] = point

    def _import_installed(self, name: str) -> type[Plugin]:
        point = self._installed[name]
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{_owner(point)}: cannot import {point.value}: {error!r}") from error
        cls = _checked(loaded, point.value)
        if cls.type != name:
            raise ConfigError(f'{_owner(point)}: {point.value} has type "{cls.type}", not "{name}"')
        return cls


def _owner(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist is not None else f"entry point {point.value}"


def _import_class(reference: str) -> type[Plugin]:
    module_name, _, class_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot import {module_name}: {error!r}") from error
    if not hasattr(module, class_name):
        options = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"module {module_name} has no class {class_name}{did_you_mean(class_name, options)}")
    return _checked(getattr(module, class_name), reference)


def _checked(loaded: object, reference: str) -> type[Plugin]:
    if not isinstance(loaded, type) or not issubclass(loaded, Plugin):
        raise ConfigError(f"{reference} is not a subclass of epp.api.Plugin")
    if not isinstance(getattr(loaded, "type", None), str):
        raise ConfigError(f'{reference} has no type: set `type = "..."` in the class')
    try:
        inspect_params(loaded)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{reference}.Params is not a msgspec struct that can be read: {error!r}") from error
    return loaded
