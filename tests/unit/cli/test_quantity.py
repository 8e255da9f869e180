from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.api import parse_duration_s
from epp.cli.quantity import format_bytes, format_duration, parse_bool, parse_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50ms", 0.05),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("-2s", -2.0),
        ("+.5s", 0.5),
        ("1h1m1s1ms1us1ns", 3661.001001001),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        ("1.s", 1.0),
    ],
)
def test_durations_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize("text", ["", "5", "s", "1 s", "1d", "1m30", ".s", "--1s", "1e3s", "300000000h", "٣s"])
def test_what_go_does_not_take_for_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10MiB", 10 << 20),
        ("25MB", 25_000_000),
        ("100Mi", 100 << 20),
        ("1.5Gi", 3 << 29),
        ("2k", 2000),
        ("1e6", 1_000_000),
        ("5E3", 5000),
        ("1E", 10**18),
        ("1000m", 1),
        (" 1Ki ", 1024),
        ("7b", 7),
    ],
)
def test_sizes_are_kubernetes_quantities_with_an_optional_b(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a size"),
        ("B", "not a size"),
        ("10XB", "not a size"),
        ("1 Mi", "not a size"),
        ("-1", "negative"),
        ("1.5", "whole number"),
        ("1m", "whole number"),
        ("8Ei", "too large"),
        ("1e300", "too large"),
        ("KiB", "not a size"),
    ],
)
def test_other_sizes_are_refused_with_a_reason(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_bytes(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_that_is_shown_reads_back_the_same(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@given(st.integers(0, 10_000_000))
def test_a_duration_that_is_shown_reads_back_the_same(milliseconds: int) -> None:
    seconds = milliseconds / 1000

    assert parse_duration_s(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


def test_durations_are_shown_short() -> None:
    assert [format_duration(s) for s in (0, 0.05, 2, 90, 120)] == ["0s", "50ms", "2s", "1m30s", "2m"]


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_gos_words_for_true(text: str) -> None:
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["yes", "on", "", "tRUE"])
def test_other_words_are_no_truth_values(text: str) -> None:
    with pytest.raises(ValueError):
        parse_bool(text)
