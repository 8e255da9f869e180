"""Durations as configuration files write them: Go's format (`200ms`, `1m30s`, `0`)."""

from __future__ import annotations

import re
from typing import Final

from epp.api import ConfigError

_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def seconds(text: str, *, parameter: str) -> float:
    """`text` in seconds, not negative. ConfigError names `parameter`."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            break
        total += float(part[1]) * _UNITS_S[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise ConfigError(f'{parameter}: {text!r} is not a duration; write for example "200ms" or "1m30s"')
    return total
