"""Decodes a plugin's parameters into its Params struct. Reports what does not fit and what is deprecated, at its own line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from epp.api import Plugin
from epp.config.document import Fields, Items, Node, Scalar, is_null, kind_of, plain
from epp.config.problems import Place, Problems, Severity, did_you_mean

# msgspec: "Expected `int`, got `str` - at `$.a[0].b`"; dict values show as `[...]`, dict keys as "at `key` in `$.a`".
_WHERE: Final = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_QUOTED: Final = re.compile(r"`([^`]*)`")
_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def decode_params(
    cls: type[Plugin],
    parameters: Fields | None,
    place: Place,
    problems: Problems,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[msgspec.Struct, dict[str, Any]] | None:
    """The decoded struct, and the parameters as written (nulls left out); None after a problem was reported.

    `defaults` are values, by configured name, of parameters that are not written.
    Strict at every level, whether or not the struct itself forbids unknown fields.
    """
    node = parameters or Fields({}, place.line, place.column)
    check = Problems(problems.file)
    _check_fields(node, _shape_of(cls.Params), place, check)
    written: dict[str, Any] = plain(node)
    _check_values(cls, node, written, place, check)
    params = None
    if not check.failed:
        try:
            params = msgspec.convert({**defaults, **written} if defaults else written, cls.Params)
        except msgspec.ValidationError as error:
            check.error(*_located(str(error), node, place, _shape_of(cls.Params)))
        # A Params class is third-party code: its __post_init__ may raise anything.
        except (Exception, SystemExit) as error:
            check.error(place, f"{type(error).__name__}: {error}")
    problems.add(check.found)
    return None if params is None else (params, written)


def inspect_params(cls: type[Plugin]) -> None:
    """Do now what decoding this plugin's parameters for the first time takes 0.3 ms for. Raises anything for a bad class."""
    _shape_of(cls.Params)
    _fields_of(cls.Params)


def deprecation_of(shape: msgspec.inspect.Type) -> str:
    """What to do in place of writing a parameter of this shape; empty where it is not deprecated."""
    extra = shape.extra if isinstance(shape, msgspec.inspect.Metadata) else None
    return str(extra.get("deprecated", "")) if extra else ""


# Evaluates annotations: at every reload it would hold up requests.
@lru_cache(maxsize=1024)
def _shape_of(struct: type[msgspec.Struct]) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(struct)


@lru_cache(maxsize=1024)
def _fields_of(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(struct)


def _check_fields(node: Node, shape: msgspec.inspect.Type, place: Place, problems: Problems) -> None:
    """Report unknown, missing and deprecated fields of structs at every depth. Kinds of values are left to msgspec."""
    if isinstance(node, Items):
        item_shape = getattr(shape, "item_type", None)
        for i, item in enumerate(node.items if item_shape else []):
            _check_fields(item, _struct_of(item_shape), Place(f"{place.path}[{i}]", item.line, item.column), problems)
        return
    if not isinstance(node, Fields):
        return
    if isinstance(shape, msgspec.inspect.DictType):
        for key, field in node.fields.items():
            inner = Place(f"{place.path}.{key}", field.value.line, field.value.column)
            _check_fields(field.value, _struct_of(shape.value_type), inner, problems)
    if not isinstance(shape, msgspec.inspect.StructType) or shape.array_like:
        return
    known = {f.encode_name: f for f in shape.fields}
    names = [*known, *([shape.tag_field] if shape.tag_field else [])]
    for key, field in node.fields.items():
        if problems.full:
            return
        if key not in names:
            message = f"unknown field{did_you_mean(key, names)}" if names else "unknown field; there are no parameters"
            problems.error(Place(f"{place.path}.{key}", field.line, field.column), message)
        elif key in known:
            instead = deprecation_of(known[key].type)
            if instead and not is_null(field.value):
                place_of_key = Place(f"{place.path}.{key}", field.line, field.column)
                problems.warning(place_of_key, f"is deprecated: {instead}")
            inner = Place(f"{place.path}.{key}", field.value.line, field.value.column)
            _check_fields(field.value, _struct_of(known[key].type), inner, problems)
    for name, expected in known.items():
        if expected.required and (name not in node.fields or is_null(node.fields[name].value)):
            problems.error(Place(f"{place.path}.{name}", place.line, place.column), "is missing")


def _check_values(cls: type[Plugin], node: Fields, written: dict[str, Any], place: Place, problems: Problems) -> None:
    """Try each top-level value on its own, since msgspec stops at the first that does not fit."""
    reported = [p.path for p in problems.found if p.severity is Severity.ERROR]
    for field in _fields_of(cls.Params):
        name = field.encode_name
        path = f"{place.path}.{name}"
        if name not in written or any(p.startswith(path) for p in reported):
            continue
        value = node.fields[name].value
        try:
            msgspec.convert(written[name], field.type)
        except msgspec.ValidationError as error:
            inner = Place(path, value.line, value.column)
            problems.error(*_located(str(error), value, inner, _part_of(_shape_of(cls.Params), name)))


def _struct_of(shape: Any) -> msgspec.inspect.Type:
    """`shape`, or of a union the only member that is made of parts (a union of several structs is left to msgspec)."""
    if isinstance(shape, msgspec.inspect.UnionType):
        parts = [t for t in shape.types if hasattr(t, "item_type") or hasattr(t, "value_type") or hasattr(t, "fields")]
        return parts[0] if len(parts) == 1 else msgspec.inspect.AnyType()
    result: msgspec.inspect.Type = shape
    return result


def _part_of(shape: Any, step: str) -> Any:
    """The shape of a struct's field, of a list's items, of a mapping's values."""
    shape = _struct_of(shape)
    if isinstance(shape, msgspec.inspect.StructType):
        return next((f.type for f in shape.fields if f.encode_name == step), msgspec.inspect.AnyType())
    return getattr(shape, "item_type", None) or getattr(shape, "value_type", None)


def choices_of(shape: Any) -> list[Any]:
    """The values that a Literal, an Enum or a union with some of them allows; of anything else none."""
    if isinstance(shape, msgspec.inspect.LiteralType):
        return list(shape.values)
    if isinstance(shape, msgspec.inspect.EnumType):
        return [member.value for member in shape.cls]
    if isinstance(shape, msgspec.inspect.UnionType):
        return [choice for part in shape.types for choice in choices_of(part)]
    return []


def _located(message: str, node: Node, place: Place, shape: Any) -> tuple[Place, str]:
    """The place that a msgspec error speaks of, and the rest of its text in our words."""
    match = _WHERE.search(message)
    text = message[: match.start()] if match else message
    path = place.path
    for name, index in _STEP.findall(match.group(1) if match else ""):
        if isinstance(node, Fields) and name in node.fields:
            node, path = node.fields[name].value, f"{path}.{name}"
        elif isinstance(node, Items) and index and int(index) < len(node.items):
            node, path = node.items[int(index)], f"{path}[{index}]"
        else:
            break
        shape = _part_of(shape, name)
    return Place(path, node.line, node.column), _in_words(text, node, shape)


def _in_words(text: str, node: Node, shape: Any) -> str:
    words = _QUOTED.sub(_quoted_in_words, text)
    if isinstance(node, Scalar):
        choices = list(map(str, choices_of(shape))) if text.startswith("Invalid enum value") else []
        if choices:
            words = "expected " + " or ".join(f'"{choice}"' for choice in choices)
        words = f"{words.partition(', got ')[0]}, got {kind_of(node)}{did_you_mean(str(node.value), choices)}"
    return words[:1].lower() + words[1:]


def _quoted_in_words(match: re.Match[str]) -> str:
    kinds = match.group(1).split(" | ")
    if all(kind in _WORDS for kind in kinds):
        return " or ".join(_WORDS[kind] for kind in kinds)
    return f'"{match.group(1)}"'
