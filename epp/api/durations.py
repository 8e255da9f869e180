"""Durations as Go programs write them: `50ms`, `1m30s`, `0`. Source: Go's time.ParseDuration."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION: Final = re.compile(r"([+-]?)((?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_DURATION_PART: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_NS: Final = 2**63 - 1


def parse_duration_s(text: str) -> float:
    """Seconds of `50ms`, `1m30s`, `-1.5h`, `0` (Go: time.ParseDuration). Raises ValueError."""
    if text in ("0", "+0", "-0"):
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; expected for example 50ms, 30s or 1m30s")
    total_ns = sum(Fraction(number) * _NS[unit] for number, unit in _DURATION_PART.findall(match[2]))
    if total_ns > _MAX_NS:
        raise ValueError(f"{text!r} is too long a duration; the longest is about 292 years")
    return float(total_ns / 10**9) * (-1 if match[1] == "-" else 1)
