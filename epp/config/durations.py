"""Durations in Go's notation (`60s`, `1m30s`, `200ms`). Source: Go's time.ParseDuration."""

from __future__ import annotations

import re

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def parse_duration(value: str | int | float) -> float:
    """Seconds ≥ 0. Raises ValueError; a bare number other than 0 has no unit and is refused."""
    text = str(value)
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(a + b for a, b in parts) != text.removeprefix("+"):
        hint = " (it must not be negative)" if text.startswith("-") else ""
        raise ValueError(f"expected a duration such as 60s, 1m30s or 200ms, got {value!r}{hint}")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """The shortest of s, ms and ns that says `seconds` without a fraction."""
    ns = round(seconds * 1e9)
    for size, unit in ((1_000_000_000, "s"), (1_000_000, "ms")):
        if ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns}ns"
