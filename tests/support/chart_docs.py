"""Tables about the Helm charts: every value with its names, default and meaning, and the values that do nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import yaml

from tests.support.charts import CHARTS

_LIBRARY: Final = CHARTS / "epplib"
_LONG: Final = 60
# Values that are passed on as they are, so that nothing is to be said of them.
_OF_KUBERNETES: Final = frozenset(
    (
        *(
            "affinity",
            "args",
            "command",
            "env",
            "livenessProbe",
            "nodeSelector",
            "podAnnotations",
            "podLabels",
            "ports",
        ),
        *("priorityClassName", "pullPolicy", "imagePullPolicy", "readinessProbe", "resources", "securityContext"),
        *("startupProbe", "tolerations", "volumeMounts", "volumes"),
    )
)


class Value(NamedTuple):
    """One value of the charts; one with values below it has no default of its own."""

    path: str
    default: str
    text: str


def values() -> list[Value]:
    """All of values.yaml, in its order, with the comment above each."""
    text = (_LIBRARY / "values.yaml").read_text()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_values(root, "", _schema(), text.splitlines()))


def _values(node: yaml.MappingNode, before: str, schema: dict[str, Any], lines: list[str]) -> Iterator[Value]:
    properties = _properties(schema)
    for key, value in node.value:
        path, below = before + key.value, _properties(properties[key.value])
        text = _above(lines, key.start_mark.line)
        if below and isinstance(value, yaml.MappingNode) and value.value:
            if text:
                yield Value(path, "", text)
            yield from _values(value, f"{path}.", properties[key.value], lines)
        else:
            yield Value(path, json.dumps(yaml.safe_load(yaml.serialize(value))), text)


@cache
def _schema() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((_LIBRARY / "schema.json").read_text())
    return whole


def _definition(reference: str) -> dict[str, Any]:
    found: dict[str, Any] = _schema()["$defs"][reference.removeprefix("#/$defs/")]
    return found


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """What the schema names below a value; nothing where any key may stand."""
    if name := schema.get("$ref"):
        return _properties(_definition(name))
    inherited = [_properties(part) for part in schema.get("allOf", ())]
    return {key: value for part in (*inherited, schema.get("properties", {})) for key, value in part.items()}


def known_places() -> Iterator[str]:
    """Every value below which only named values may stand; empty for the top."""
    return _places("", _schema())


def sample(path: str, default: object) -> object:
    """Something that the schema allows there, and not the default."""
    return _sample(_at(path), default)


def children(path: str) -> list[str]:
    """What the schema names just below a value."""
    return [f"{path}.{key}" for key in _properties(_at(path))]


def _at(path: str) -> dict[str, Any]:
    """What the schema says of a value."""
    schema = _schema()
    for key in path.split("."):
        schema = _properties(schema)[key]
    return schema


def _sample(schema: dict[str, Any], default: object) -> object:
    if name := schema.get("$ref"):
        return _sample(_definition(name), default)
    if choices := schema.get("enum"):
        return next(choice for choice in choices if choice and choice != default)
    if "const" in schema:
        return schema["const"]
    if among := schema.get("oneOf"):
        return _sample(among[0], default)
    below: dict[str, Any] = _properties(schema)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    match kinds[0]:
        case "object" if below:
            key = next(iter(below))
            return {key: _sample(below[key], default.get(key) if isinstance(default, dict) else None)}
        case "object":
            return {"other": "other"}
        case "array":
            return [_sample({"type": "object", **schema["items"]}, None)]
        case "boolean":
            return not default
        case "integer":
            return int(default) - 1 if isinstance(default, int) and default > 1 else 2
        case _:
            return "other"


def _places(path: str, schema: dict[str, Any]) -> Iterator[str]:
    below = _properties(schema)
    if below:
        yield path
    for key, value in below.items():
        yield from _places(f"{path}.{key}" if path else key, value)


def _above(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line and lines[line - 1].strip().startswith("# "):
        line -= 1
        found.insert(0, lines[line].strip().removeprefix("# "))
    return " ".join(found)


def value_table() -> str:
    """Every value, in the order of values.yaml."""
    lines = ["| value | in llm-d's charts | default | |", "|---|---|---|---|"]
    for path, default, text in values():
        name = path.rpartition(".")[2]
        meaning = text or ("as in Kubernetes" if name in _OF_KUBERNETES else "")
        shown = f"`{default}`" if default and len(default) <= _LONG else "several" if default else ""
        theirs = f"`{known}`" if (known := in_llm_d(path)) else ""
        lines.append("| " + " | ".join(c.replace("|", r"\|") for c in (f"`{path}`", theirs, shown, meaning)) + " |")
    return "\n".join(lines) + "\n"


def without_effect_table() -> str:
    """Values that NOTES.txt names where they are given."""
    lines = ["| value | why it does nothing |", "|---|---|"]
    for paths, because in without_effect():
        lines.append(f"| {'<br>'.join(f'`{path}`' for path in paths)} | {because} |")
    return "\n".join(lines) + "\n"


# --- names in llm-d's charts ---------------------------------------------------------------------------------------------


def in_llm_d(path: str) -> str:
    """What llm-d's charts call it; empty where they have no name for it."""
    pairs = _pairs()
    within = [(part, value) for part, value in pairs if not _is_llm_d(value) and _is_below(path, value)]
    if not within:
        return ""
    part, value = max(within, key=lambda pair: len(pair[1]))
    inner = part + path.removeprefix(value)
    theirs = [(part, value) for part, value in pairs if _is_llm_d(value) and _is_below(inner, part)]
    if not theirs:
        return ""
    part, value = max(theirs, key=lambda pair: len(pair[0]))
    name = value + inner.removeprefix(part)
    return name if _is_known(name) else ""


@cache
def _pairs() -> list[tuple[str, str]]:
    """Parts of the charts' inner tree, and the values that they come from."""
    listed: list[dict[str, str]] = yaml.safe_load(_define("_tree.tpl", "epplib.names"))
    return [pair for one in listed for pair in one.items()]


def _is_llm_d(path: str) -> bool:
    return path.partition(".")[0] in ("router", "httpRoute")


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}.")


def _is_known(path: str) -> bool:
    schema = _schema()
    for key in path.split("."):
        below = _properties(schema)
        if below and key not in below:
            return False
        schema = below.get(key, {})
    return True


def _define(file: str, name: str) -> str:
    """The text of a named template."""
    text = (_LIBRARY / "templates" / file).read_text()
    found = re.search(rf'{{{{- define "{re.escape(name)}" -}}}}\n(.*?){{{{- end -}}}}\n', text, re.DOTALL)
    assert found is not None, name
    return found[1]


# --- values without effect -----------------------------------------------------------------------------------------------


def without_effect() -> Iterator[tuple[list[str], str]]:
    """Values that NOTES.txt names where they are given and not the default, and why they do nothing. `.*`: all just below."""
    text = (_LIBRARY / "templates" / "_notes.tpl").read_text()
    listed = text[text.index('define "epplib.withoutEffect"') :]
    plain = "\n".join(line for line in listed.splitlines()[1:] if not line.startswith("{{"))
    for remark in yaml.safe_load(plain):
        yield list(dict.fromkeys(name for part in remark["values"] for name in _names_of(part))), remark["because"]


def _names_of(part: str) -> list[str]:
    """The values that a part of the inner tree comes from; a value's own name stands for itself."""
    inner = part.removesuffix(".*")
    places = [inner, *(value + inner.removeprefix(of) for of, value in _pairs() if _is_below(inner, of))]
    return [place + part.removeprefix(inner) for place in places if _is_known(place)]
