"""Durations in a configuration: Go's notation, never negative."""

from __future__ import annotations

from epp.api import parse_duration_s


def parse_duration(value: str | int | float) -> float:
    """Seconds ≥ 0. Raises ValueError; a bare number other than 0 has no unit and is refused."""
    try:
        duration_s = parse_duration_s(str(value))
    except ValueError:
        raise ValueError(f"expected a duration such as 60s, 1m30s or 200ms, got {value!r}") from None
    if duration_s < 0:
        raise ValueError(f"expected a duration such as 60s, 1m30s or 200ms, got {value!r} (it must not be negative)")
    return duration_s


def format_duration(seconds: float) -> str:
    """The shortest of s, ms and ns that says `seconds` without a fraction."""
    ns = round(seconds * 1e9)
    for size, unit in ((1_000_000_000, "s"), (1_000_000, "ms")):
        if ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns}ns"
