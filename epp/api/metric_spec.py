"""Metric specs as configuration writes them: `family` or `family{label=value,other="quoted value"}`. Pure.

The empty string means that the engine has no such metric. A spec selects the samples whose labels include the given ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from epp.api.errors import ConfigError

_FAMILY: Final = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*")
_LABEL: Final = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^\s\",{}=]+)\s*")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


class MetricSpecError(ConfigError):
    """A metric spec cannot be read. `position` counts characters from 0."""

    def __init__(self, spec: str, position: int, expected: str) -> None:
        super().__init__(f"metric spec {spec!r}: expected {expected} at position {position}")
        self.spec = spec
        self.position = position


class MetricSpec(msgspec.Struct, frozen=True):
    """A metric family and the labels (name, value) that a sample must have."""

    family: str
    labels: tuple[tuple[str, str], ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(name) == value for name, value in self.labels)


def parse_spec(text: str) -> MetricSpec | None:
    """The spec that `text` describes; None for an empty one. Raises MetricSpecError."""
    if not text.strip():
        return None
    family = _FAMILY.match(text)
    if family is None:
        raise MetricSpecError(text, 0, "a metric name")
    position = family.end()
    if position == len(text):
        return MetricSpec(family[1])
    if text[position] != "{":
        raise MetricSpecError(text, position, '"{" or the end')
    labels, position = _parse_labels(text, position + 1)
    if text[position:].strip():
        raise MetricSpecError(text, position, "the end")
    return MetricSpec(family[1], labels)


def _parse_labels(text: str, position: int) -> tuple[tuple[tuple[str, str], ...], int]:
    """The labels from behind the opening brace on, and the position behind the closing one."""
    labels: dict[str, str] = {}
    while text[position:].lstrip()[:1] != "}":
        label = _LABEL.match(text, position)
        if label is None:
            raise MetricSpecError(text, position, "label=value")
        if label[1] in labels:
            raise MetricSpecError(text, position, f"another label than {label[1]!r} again")
        labels[label[1]] = _unquote(label[2])
        position = label.end()
        if text[position : position + 1] not in (",", "}"):
            raise MetricSpecError(text, position, '"," or "}"')
        if text[position] == ",":
            position += 1
    return tuple(labels.items()), text.index("}", position) + 1


def _unquote(value: str) -> str:
    if not value.startswith('"'):
        return value
    return _ESCAPE.sub(lambda m: {"n": "\n"}.get(m[1], m[1]), value[1:-1])
