"""Alarms that the world has changed."""

from __future__ import annotations

import numpy as np
import pytest

from epp_predictor.drift import Drift, PageHinkley


def noise(count: int, *, middle: float = 0.0, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(middle, 0.15, count).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_shift(seed: int) -> None:
    alarm = PageHinkley()
    for value in noise(20_000, seed=seed):
        alarm.add(value)

        assert not alarm.is_shifted


@pytest.mark.parametrize("middle", [0.3, -0.3])
def test_a_shift_to_either_side_is_told_within_fifty(middle: float) -> None:
    alarm = PageHinkley()
    for value in noise(50, middle=middle):
        alarm.add(value)

    assert alarm.is_shifted


def test_one_absurd_value_is_no_shift() -> None:
    alarm = PageHinkley()
    alarm.add(1e9)

    assert not alarm.is_shifted


def test_after_a_reset_it_starts_anew() -> None:
    drift = Drift(window=10)
    for _ in range(20):
        drift.add(0.9, was_within=False)
    told = drift.reason

    drift.reset()

    assert (told, drift.reason) == ("shift", "")


def test_intervals_that_no_longer_hold_are_told_once_the_window_is_full() -> None:
    drift = Drift(window=100)
    reasons = []
    for number in range(100):
        drift.add(0.0, was_within=number % 4 != 0)
        reasons.append(drift.reason)

    assert reasons[-2:] == ["", "coverage"]
