"""Label selectors written as text: `app=vllm,tier!=test,zone in (a, b),!old`. Source: Kubernetes' labels.Parse."""

from __future__ import annotations

import re
from typing import Final

from epp_plugins.filters.label_selector_filter import Requirement

_KEY: Final = r"[A-Za-z0-9](?:[-\w./]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-\w.]*[A-Za-z0-9])?)?"
_TERM: Final = re.compile(
    rf"\s*(?:!\s*(?P<absent>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?:(?P<equality>==|=|!=)\s*(?P<value>{_VALUE})|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*",
    re.ASCII,
)
_SPLIT: Final = re.compile(r",(?![^()]*\))")


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """The requirements, all of which must be met. Raises ValueError for text that is no selector."""
    return tuple(_requirement(term) for term in _SPLIT.split(text))


def _requirement(text: str) -> Requirement:
    match = _TERM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text.strip()!r} is no label requirement; write for example app=vllm or zone in (a, b)")
    if match["absent"]:
        return Requirement(match["absent"], "DoesNotExist")
    if match["equality"]:
        return Requirement(match["key"], "NotIn" if match["equality"] == "!=" else "In", (match["value"],))
    if match["set"]:
        values = tuple(value.strip() for value in match["values"].split(","))
        return Requirement(match["key"], "In" if match["set"] == "in" else "NotIn", values)
    return Requirement(match["key"], "Exists")
