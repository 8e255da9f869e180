"""Quantities and durations as Kubernetes and Go write them."""

from __future__ import annotations

import pytest

from epp.config.durations import format_duration, parse_duration
from epp.config.quantities import parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (0, 0),
        (42, 42),
        (1.5, 2),
        ("1k", 1000),
        ("500M", 500_000_000),
        ("1Gi", 1 << 30),
        ("0.5Gi", 1 << 29),
        ("1.", 1),
        (".5k", 500),
        ("+3", 3),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("100m", 1),
        ("2500m", 3),
    ],
)
def test_quantities_are_whole_numbers_rounded_up(text: str | float, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "1gi", "1 Gi", "1KiB", "k", "1e", "1e999", "9Ei", "NaN", "٣"])
def test_what_is_not_a_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("0", 0),
        (0, 0),
        ("0s", 0),
        ("1m30s", 90),
        ("200ms", 0.2),
        ("1.5h", 5400),
        ("10us", 1e-5),
        ("2µs", 2e-6),
        ("3ns", 3e-9),
        ("+1s", 1),
    ],
)
def test_durations_are_seconds(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "60", 60, 1.5, "s", "1 s", "1d", "-1s", "1s ", "1sx", "++1s"])
def test_what_is_not_a_duration_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 60s"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0.0, 60.0, 0.2, 1.5, 3e-9, 5400.0])
def test_a_duration_reads_back_as_it_was_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12)
