"""What there is to know about a plugin class, as plain data: for tables, for the terminal, for the schema of configurations.

Everything is read from the class and the module that it is in: docstrings tell the rule, the Params struct tells names,
kinds of values, ranges and defaults, and a sample made with default parameters tells which data are read and published.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from epp.api import ConfigError, Handle, Plugin
from epp.config.params import choices_of, deprecation_of
from epp.config.registry import Registry
from epp.config.roles import words_for

# The order in which a request meets the kinds, then what is beside it. Others come last.
KINDS: Final = (
    *("parser", "request header processor", "screener", "data producer", "admitter", "profile handler", "decider"),
    *("filter", "scorer", "picker", "pre-request hook", "response hook", "saturation detector"),
    *("data source", "extractor", "discovery"),
)
# Kinds whose rule the first sentence of the docstring tells. Of the others it is enough to know what they are for.
_TOLD_BY_RULE: Final = frozenset(("filter", "scorer", "picker", "saturation detector"))


class Parameter(msgspec.Struct, frozen=True):
    """One parameter. `path` leads into structs (`algorithm.type`) and lists of them (`conditions[].metric`).

    `values` says in words what is accepted. `default` is None for required ones, and where None is the default.
    `deprecated` says what to do instead, empty where it is not.
    """

    path: str
    values: str
    required: bool
    default: Any = None
    deprecated: str = ""


class PluginFacts(msgspec.Struct, frozen=True):
    """One plugin type.

    `summary` is what it is for, `rule` that and how it rates or chooses, `text` the whole docstring. `produces` and `consumes`
    are the data keys with default parameters, None where no sample can be made without parameters. `deprecated` says what to
    use instead, empty where it is not. `place` is the `module:Class`.
    """

    type: str
    kinds: tuple[str, ...]
    summary: str
    rule: str
    text: str
    parameters: tuple[Parameter, ...]
    produces: tuple[str, ...] | None
    consumes: tuple[str, ...] | None
    experimental: bool
    deprecated: str
    place: str


def facts_of(type_name: str, registry: Registry, handle: Handle) -> PluginFacts:
    """The facts about a type, or about `module:Class`. Raises ConfigError when there is no such plugin."""
    cls = registry.find(type_name)
    produces, consumes = _data_keys(cls, registry, handle)
    return PluginFacts(
        type=cls.type,
        kinds=kinds_of(cls),
        summary=summary_of(cls),
        rule=rule_of(cls),
        text=inspect.cleandoc(cls.__doc__ or ""),
        parameters=tuple(_parameters(msgspec.inspect.type_info(cls.Params), "", ())),
        produces=produces,
        consumes=consumes,
        experimental=cls.experimental,
        deprecated=registry.deprecation(type_name) or "",
        place=f"{cls.__module__}:{cls.__qualname__}",
    )


def kinds_of(cls: type[Plugin]) -> tuple[str, ...]:
    """`("scorer", "pre-request hook")`, the one that its users know it by first."""
    words = re.sub(r"^an? ", "", words_for(cls, cls.type)).split(" and ")
    return tuple(sorted(words, key=lambda word: word.endswith("hook")))


def kind_order(kind: str) -> int:
    """Where a kind stands among KINDS; for sorting."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def summary_of(cls: type[Plugin]) -> str:
    """What the plugin is for: of a module that begins `TYPE: what it is for`, else the beginning of the class's docstring."""
    module = paragraph_of(getattr(inspect.getmodule(cls), "__doc__", None))
    if module.startswith(f"{cls.type}: "):
        return _capitalised(module.removeprefix(f"{cls.type}: "))
    return _capitalised(paragraph_of(cls.__doc__) or module)


def rule_of(cls: type[Plugin]) -> str:
    """The summary, and of plugins that rate or choose endpoints the sentence that says how."""
    summary, rule = summary_of(cls), paragraph_of(cls.__doc__)
    if not _TOLD_BY_RULE.intersection(kinds_of(cls)) or rule.startswith("Deprecated") or _capitalised(rule) == summary:
        return summary
    first_sentence = re.split(r"(?<=\.) (?=[A-Z0-9`])", rule)[0]
    return f"{summary} {first_sentence}".rstrip()


def default_of(field: msgspec.structs.FieldInfo | msgspec.inspect.Field) -> Any:
    """A field's default as JSON has it; None for a required field."""
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return None
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=repr, order="deterministic"))


def sample(
    cls: type[Plugin], registry: Registry, handle: Handle, *, parameters: Mapping[str, Any] | None = None
) -> Plugin:
    """An instance, after those that it refers to, each of which is named by its type. `handle` is what all of them are lent.

    Raises msgspec.ValidationError for parameters that do not fit, ConfigError where something else is missing.
    """
    return _sample(cls, registry, handle, parameters or {}, ())


def _sample(
    cls: type[Plugin],
    registry: Registry,
    handle: Handle,
    parameters: Mapping[str, Any],
    waiting: tuple[str, ...],
) -> Plugin:
    if cls.type in waiting:
        raise ConfigError(f"plugins refer to each other: {' → '.join((*waiting, cls.type))}")
    params = msgspec.convert(dict(parameters), cls.Params)
    names = [name for name, _ in cls.refers_to(params).values()]
    inner = (*waiting, cls.type)
    others = {name: _sample(registry.find(name), registry, handle, {}, inner) for name in names}
    return cls(params, msgspec.structs.replace(handle, name=cls.type, plugins=others))


def _data_keys(
    cls: type[Plugin], registry: Registry, handle: Handle
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    if all(getattr(cls, name) is getattr(Plugin, name) for name in ("produces", "consumes", "consumes_if_published")):
        return (), ()
    try:
        plugin = sample(cls, registry, handle)
        return tuple(map(str, plugin.produces())), tuple(
            map(str, (*plugin.consumes(), *plugin.consumes_if_published()))
        )
    # Parameters without a default, or third-party code that fails without its surroundings.
    except (Exception, SystemExit):
        return None, None


# --- parameters ----------------------------------------------------------------------------------------------------------


def _parameters(shape: msgspec.inspect.Type, path: str, outer: tuple[type, ...]) -> Iterator[Parameter]:
    """Fields of a struct, each followed by those of the struct that it holds."""
    if not isinstance(shape, msgspec.inspect.StructType) or shape.cls in outer:
        return
    for field in shape.fields:
        name = f"{path}.{field.encode_name}" if path else field.encode_name
        instead = deprecation_of(field.type)
        yield Parameter(name, values_of(field.type), field.required, default_of(field), instead)
        inner, suffix = _part(field.type)
        yield from _parameters(inner, f"{name}{suffix}", (*outer, shape.cls))


def _part(shape: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, str]:
    """What a value consists of, and how its path goes on."""
    if isinstance(shape, msgspec.inspect.Metadata):
        return _part(shape.type)
    if isinstance(shape, msgspec.inspect.UnionType):
        parts = [t for t in shape.types if not isinstance(t, msgspec.inspect.NoneType)]
        return _part(parts[0]) if len(parts) == 1 else (shape, "")
    item = getattr(shape, "item_type", None)
    if item is not None:
        inner, suffix = _part(item)
        return inner, f"[]{suffix}"
    if isinstance(shape, msgspec.inspect.DictType):
        inner, suffix = _part(shape.value_type)
        return inner, f".*{suffix}"
    return shape, ""


def values_of(shape: msgspec.inspect.Type) -> str:
    """The values that a type accepts, in words: `a whole number, at least 1`."""
    if isinstance(shape, msgspec.inspect.Metadata):
        return values_of(shape.type)
    if isinstance(shape, msgspec.inspect.UnionType):
        return " or ".join(values_of(t) for t in shape.types if not isinstance(t, msgspec.inspect.NoneType))
    if choices := choices_of(shape):
        return " or ".join(map(_quoted, choices))
    if isinstance(shape, msgspec.inspect.DictType):
        return f"a mapping to {values_of(shape.value_type)}"
    item = getattr(shape, "item_type", None)
    if item is not None:
        return ", ".join([f"a list of {values_of(item)}", *_lengths(shape)])
    return ", ".join([_KINDS_OF_VALUES.get(type(shape), "a value"), *_limits(shape), *_lengths(shape)])


_KINDS_OF_VALUES: Final[Mapping[type, str]] = {
    msgspec.inspect.IntType: "a whole number",
    msgspec.inspect.FloatType: "a number",
    msgspec.inspect.StrType: "text",
    msgspec.inspect.BoolType: "true or false",
    msgspec.inspect.StructType: "a mapping",
    msgspec.inspect.DataclassType: "a mapping",
    msgspec.inspect.TypedDictType: "a mapping",
    msgspec.inspect.NoneType: "nothing",
}
_LIMITS: Final = (("gt", "more than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most"))


def _limits(shape: msgspec.inspect.Type) -> Iterator[str]:
    for name, words in _LIMITS:
        limit = getattr(shape, name, None)
        if limit is not None:
            yield f"{words} {limit:g}" if isinstance(limit, float) else f"{words} {limit}"
    pattern = getattr(shape, "pattern", None)
    if pattern is not None:
        yield f"like {pattern}"


def _lengths(shape: msgspec.inspect.Type) -> Iterator[str]:
    least, most = getattr(shape, "min_length", None), getattr(shape, "max_length", None)
    if least is not None and least == most:
        yield f"of length {least}"
        return
    if least is not None:
        yield f"of length at least {least}"
    if most is not None:
        yield f"of length at most {most}"


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# --- texts ---------------------------------------------------------------------------------------------------------------


def paragraph_of(doc: str | None) -> str:
    """The first paragraph of a docstring, on one line; empty without one."""
    return " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())


def _capitalised(text: str) -> str:
    # vLLM is no word to begin with a capital.
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]
