"""Random configurations for property tests: subsets of the in-tree plugins, with names, weights and parameters."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from epp.api import DataSource, Extractor, Filter, Parser, Picker, Plugin, ProfileHandler, SaturationDetector, Scorer
from epp.config.model import API_VERSION, KIND
from epp.config.roles import DATA_SOURCES, DISCOVERIES, EXTRACTORS
from epp_plugins.registry import BUILTIN

Config = dict[str, Any]

# It keeps whom the client names, and nobody of clients that name none.
_FOR_TESTS: Final = frozenset({"header-based-testing-filter"})
_BESIDE: Final = DATA_SOURCES | EXTRACTORS | DISCOVERIES | _FOR_TESTS

_NOT_FOR_PROFILES: Final = ProfileHandler | Parser | DataSource | Extractor


def _usable(cls: type[Plugin]) -> bool:
    """With default parameters, in any company."""
    required = any(field.required for field in msgspec.structs.fields(cls.Params))
    return not (required or cls.type in _BESIDE or issubclass(cls, _NOT_FOR_PROFILES))


RICH: Final = tuple(name for name, cls in BUILTIN.items() if _usable(cls))
"""Types that need no parameters."""

USABLE: Final = tuple(name for name in RICH if not BUILTIN[name].experimental)
"""Those of them that decide about any request."""

PARSERS: Final = tuple(name for name, cls in BUILTIN.items() if issubclass(cls, Parser))

weights: Final = st.one_of(st.none(), st.integers(0, 100), st.floats(0, 1e6, allow_nan=False, allow_infinity=False))


@st.composite
def plain_configs(draw: st.DrawFn) -> Config:
    """One profile of random plugins with default parameters under their own names, random weights."""
    types = draw(st.lists(st.sampled_from(USABLE), unique=True, max_size=len(USABLE)))
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        # With nothing in a profile and no plugins at all there still is one picker.
        "plugins": [{"type": name} for name in types],
        "schedulingProfiles": [{"name": "default", "plugins": draw(_members({t: t for t in types}))}],
    }


@st.composite
def rich_configs(draw: st.DrawFn) -> Config:
    """Names, parameters, parsers, detectors, gates and limits as well. Most of them are valid, not all."""
    types = draw(st.lists(st.sampled_from(RICH), max_size=8))
    plugins: list[Config] = []
    by_name: dict[str, str] = {}
    for name in types:
        given = draw(st.sampled_from(["", "", "one", "two", "größer", "1e3", "yes", "a: b", "#"]))
        if (given or name) in by_name:
            continue
        by_name[given or name] = name
        entry: Config = {"type": name} | ({"name": given} if given else {})
        parameters = draw(_parameters(BUILTIN[name]))
        plugins.append(entry | ({"parameters": parameters} if parameters else {}))
    config: Config = {"apiVersion": API_VERSION, "kind": KIND, "plugins": plugins}
    if draw(st.booleans()):
        config["schedulingProfiles"] = [{"name": "default", "plugins": draw(_members(by_name))}]
    if draw(st.booleans()):
        parsers = draw(st.lists(st.sampled_from(PARSERS), unique=True, min_size=1))
        config["requestHandler"] = {"parsers": [{"pluginRef": name} for name in parsers]}
        plugins.extend({"type": name} for name in parsers)
    if draw(st.booleans()):
        config["dataLayer"] = {"injectDefaults": draw(st.booleans())}
    if draw(st.booleans()):
        config["featureGates"] = [f"haPopulateNonLeaderDatastore={draw(st.sampled_from(['true', 'false']))}"]
    detectors = [name for name, t in by_name.items() if issubclass(BUILTIN[t], SaturationDetector)]
    limits = draw(st.fixed_dictionaries({}, optional=_LIMITS))
    chosen = draw(st.booleans())
    if detectors and chosen:
        limits["saturationDetector"] = {"pluginRef": draw(st.sampled_from(detectors))}
    return config | ({"flowControl": limits} if limits else {})


_QUANTITIES: Final = st.sampled_from(["1Gi", "1500m", 42, "0", "2e3"])
_LIMITS: Final = {
    "maxBytes": _QUANTITIES,
    "maxRequests": _QUANTITIES,
    "defaultRequestTTL": st.sampled_from(["60s", "1m30s", 0, "1.5us"]),
    "enableEviction": st.booleans(),
    "priorityBands": st.lists(
        st.fixed_dictionaries({"priority": st.integers(-5, 5)}, optional={"maxBytes": _QUANTITIES}),
        max_size=3,
        unique_by=lambda band: band["priority"],
    ),
}


def _members(by_name: dict[str, str]) -> st.SearchStrategy[list[Config]]:
    """Elements of a profile in random order: any filters and scorers, at most one picker. `by_name`: types by name."""
    classes = {name: BUILTIN[type_name] for name, type_name in by_name.items()}
    chosen = [name for name, cls in classes.items() if issubclass(cls, Filter | Scorer)]
    pickers = [name for name, cls in classes.items() if issubclass(cls, Picker)]
    entries = [_entries(name, scored=issubclass(classes[name], Scorer)) for name in [*chosen, *pickers[:1]]]
    return st.tuples(*entries).flatmap(lambda members: st.permutations(list(members)))


def _entries(name: str, *, scored: bool) -> st.SearchStrategy[Config]:
    if not scored:
        return st.just({"pluginRef": name})
    return weights.map(lambda weight: {"pluginRef": name} | ({} if weight is None else {"weight": weight}))


def _parameters(cls: type[Plugin]) -> st.SearchStrategy[Config]:
    """Some of the parameters that are numbers, flags or one of a few words."""
    options: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(cls.Params):
        values = _values(msgspec.inspect.type_info(field.type))
        if values is not None:
            options[field.encode_name] = values
    return st.fixed_dictionaries({}, optional=options)


def _values(shape: msgspec.inspect.Type) -> st.SearchStrategy[Any] | None:
    if isinstance(shape, msgspec.inspect.BoolType):
        return st.booleans()
    if isinstance(shape, msgspec.inspect.LiteralType):
        return st.sampled_from(shape.values)
    if isinstance(shape, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        least = shape.ge if shape.ge is not None else (shape.gt or 0) + 1e-3
        most = next(limit for limit in (shape.le, shape.lt, 1000) if limit is not None)
        if isinstance(shape, msgspec.inspect.IntType):
            return st.integers(int(least) + (shape.ge is None), int(most))
        return st.floats(float(least), float(most), allow_nan=False)
    return None
