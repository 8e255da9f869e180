"""Durations among a plugin's parameters: Go's format (`200ms`, `1m30s`, `0`)."""

from __future__ import annotations

from epp.api import ConfigError, parse_duration_s


def seconds(text: str, *, parameter: str) -> float:
    """`text` in seconds, not negative. ConfigError names `parameter`."""
    try:
        duration_s = parse_duration_s(text)
    except ValueError:
        duration_s = -1.0
    if duration_s < 0:
        raise ConfigError(f'{parameter}: {text!r} is not a duration; write for example "200ms" or "1m30s"')
    return duration_s
