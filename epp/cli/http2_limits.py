"""`--http2-limit NAME=VALUE`: the limits of the lean transport, by the names that `epp.http2.Limits` gives them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Final, TypeAlias

from epp.api import parse_duration_s
from epp.cli.quantity import parse_bytes
from epp.http2 import Limits

Setting: TypeAlias = tuple[str, float]

_NAMES: Final = {field.name.replace("_", "-"): field.name for field in fields(Limits)}
_NAMES.update({shown.removesuffix("-s"): name for shown, name in list(_NAMES.items())})


def parse_limit(text: str) -> Setting:
    """One limit and its value: a size, a duration or a count, as the name's end says. Raises ValueError."""
    shown, equals, value = text.partition("=")
    name = _NAMES.get(shown.strip().replace("_", "-"))
    if name is None:
        close = difflib.get_close_matches(shown, _NAMES, n=1)
        raise ValueError(f"{shown!r} is no limit" + (f"; did you mean {close[0]!r}?" if close else ""))
    if not equals:
        raise ValueError(f"{text!r} has no value; expected {shown}=VALUE")
    if name.endswith("_bytes"):
        return name, parse_bytes(value)
    if name.endswith("_s"):
        return name, parse_duration_s(value)
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"{shown}: {value!r} is no whole number of 0 or more")
    return name, int(value)


def limits(settings: Iterable[Setting], *, max_message_bytes: int) -> Limits:
    """All limits. `max_message_bytes` comes from a flag of its own. Raises ValueError for what the protocol does not allow."""
    given = {"max_message_bytes": max_message_bytes, "max_receive_buffer_bytes": 4 * max_message_bytes}
    return Limits(**(given | dict(settings)))  # type: ignore[arg-type]  # each has the type of its field
