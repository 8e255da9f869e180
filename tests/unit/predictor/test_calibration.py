"""Offsets and quantiles per endpoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_predictor.calibration import UNKNOWN, Calibration, CalibrationState

LEVELS = (0.5, 0.05, 0.95)


def taught(values: np.ndarray, *, endpoint: int = 1) -> Calibration:
    calibration = Calibration()
    for value in values.tolist():
        calibration.observe(endpoint, value)
    return calibration


def factors(calibration: Calibration, endpoint: int, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
    return calibration.factors(np.array([endpoint]), levels)[:, 0]


def noise(count: int, *, seed: int = 0, spread: float = 0.2, middle: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, spread, count)


def test_without_observations_nothing_is_changed() -> None:
    np.testing.assert_array_equal(factors(Calibration(), 5), [1.0, 1.0, 1.0])


@pytest.mark.parametrize("level", [0.01, 0.1, 0.33, 0.5, 0.9, 0.97])
def test_any_quantile_holds_its_share_of_what_comes_next(level: float) -> None:
    calibration = taught(noise(3000))
    fresh = np.exp(noise(20_000, seed=1))

    share = (fresh <= factors(calibration, 1, (level,))[0]).mean()

    assert share == pytest.approx(level, abs=0.035)


def test_quantiles_beyond_the_outermost_are_the_outermost() -> None:
    calibration = taught(noise(3000))

    assert factors(calibration, 1, (0.9999,)) == factors(calibration, 1, (0.9975,))


def test_a_slowed_endpoint_is_followed_and_the_others_are_not_moved() -> None:
    calibration = Calibration()
    for value in noise(1600, spread=0.1):
        for endpoint in (1, 2, 3, 4):
            calibration.observe(endpoint, value)
    before = factors(calibration, 2)[0]

    for value in noise(80, spread=0.1, middle=np.log(1.35), seed=2):
        calibration.observe(1, value)

    assert factors(calibration, 1)[0] == pytest.approx(1.35, abs=0.1)
    assert factors(calibration, 2)[0] == pytest.approx(before, abs=0.05)


def test_an_unseen_endpoint_gets_what_is_known_of_all() -> None:
    calibration = taught(noise(500, middle=0.7))

    assert factors(calibration, 77)[0] == pytest.approx(np.exp(0.7), rel=0.1)
    assert factors(calibration, UNKNOWN)[0] == factors(calibration, 77)[0]
    assert factors(calibration, 10**6)[0] == factors(calibration, 77)[0]


def test_one_absurd_latency_moves_nothing_far() -> None:
    calibration = taught(noise(500))
    before = factors(calibration, 1)

    calibration.observe(1, 15.0)  # three million times slower

    assert factors(calibration, 1) == pytest.approx(before, rel=0.06)


def test_an_endpoint_with_a_spread_of_its_own_gets_its_own_interval() -> None:
    calibration = Calibration()
    for quiet, wild in zip(noise(600, spread=0.05), noise(600, spread=0.6, seed=1), strict=True):
        calibration.observe(1, quiet)
        calibration.observe(2, wild)

    _, low, high = factors(calibration, 2)
    _, quiet_low, quiet_high = factors(calibration, 1)

    assert high / low > 3 * quiet_high / quiet_low


def test_the_mean_is_above_the_median_for_a_long_tail() -> None:
    calibration = Calibration()
    for number, value in enumerate(noise(6000, spread=0.5).tolist()):
        calibration.observe(1 + number % 20, value)

    means = calibration.mean_factors(np.arange(1, 21))

    # One endpoint's offset moves by noise; twenty of them average it out.
    assert means.mean() == pytest.approx(np.exp(0.125), rel=0.08)
    assert (means > calibration.factors(np.arange(1, 21), (0.5,))[0]).all()


def test_a_forgotten_endpoint_is_like_an_unseen_one() -> None:
    calibration = Calibration()
    for value in noise(300):
        calibration.observe(1, value)
        calibration.observe(2, value + 1.0)

    calibration.forget(2)

    assert factors(calibration, 2)[0] == factors(calibration, 50)[0]


@pytest.mark.parametrize(
    ("own", "factor"), [([], 8.0), ([0.0], 8.0**0.96), ([0.0] * 5, 8.0**0.8), ([0.0] * 25, 1.0)], ids=str
)
def test_the_offset_of_an_endpoint_is_inherited_until_it_has_observations_of_its_own(
    own: list[float], factor: float
) -> None:
    """The model before said twice as much of everything, and endpoint 70 took eight times as long as endpoint 1."""
    before = taught(np.full(300, -np.log(2)))
    for _ in range(300):
        before.observe(70, np.log(4))
    calibration = taught(np.zeros(300))
    for value in own:
        calibration.observe(70, value)

    calibration.inherit(before)

    one, other = (factors(calibration, endpoint, (0.5,))[0] for endpoint in (1, 70))
    assert other / one == pytest.approx(factor, rel=0.1)


def test_a_new_model_that_has_seen_none_of_the_endpoints_inherits_what_tells_them_apart() -> None:
    before = taught(np.zeros(300))
    for _ in range(300):
        before.observe(2, np.log(8))
    calibration = Calibration()

    calibration.inherit(before)

    one, other = (factors(calibration, endpoint, (0.5,))[0] for endpoint in (1, 2))
    assert other / one == pytest.approx(8, rel=0.1)


def test_of_endpoints_that_have_gone_nothing_is_inherited() -> None:
    before = taught(np.full(300, 2.0), endpoint=3)
    before.forget(3)
    calibration = taught(np.zeros(300))

    calibration.inherit(before)

    assert calibration.state().endpoints.tolist() == [1]


def test_state_comes_back_as_it_was() -> None:
    calibration = taught(noise(300), endpoint=7)
    for value in noise(40, middle=0.4):
        calibration.observe(200, value)

    once = Calibration.restored(calibration.state())
    twice = Calibration.restored(once.state())

    for endpoint in (7, 200, 3):
        np.testing.assert_array_equal(factors(once, endpoint), factors(twice, endpoint))
        # Quantiles of the original are sorted again after the next observations only.
        np.testing.assert_allclose(factors(once, endpoint), factors(calibration, endpoint), rtol=0.12)
    assert twice.observations == 340


@pytest.mark.parametrize(
    "state",
    [
        CalibrationState(fleet=np.zeros(3)),
        CalibrationState(scores=np.array([np.nan])),
        CalibrationState(own_scores=np.zeros(4)),
        CalibrationState(endpoints=np.array([1]), offsets=np.zeros((1, 2)), own_counts=np.array([5])),
        CalibrationState(endpoints=np.array([2**40]), offsets=np.zeros((1, 2)), own_counts=np.array([0])),
        CalibrationState(endpoints=np.array([0]), offsets=np.zeros((1, 2)), own_counts=np.array([0])),
    ],
    ids=["fleet", "nan", "scores", "counts", "huge number", "unknown"],
)
def test_a_state_that_contradicts_itself_is_refused(state: CalibrationState) -> None:
    with pytest.raises(ValueError, match="calibration: "):
        Calibration.restored(state)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 300), st.floats(-30, 30)), max_size=200))
def test_whatever_it_sees_factors_are_ordered_and_finite(seen: list[tuple[int, float]]) -> None:
    calibration = Calibration()
    for endpoint, value in seen:
        calibration.observe(endpoint, value)

    found = calibration.factors(np.arange(301), (0.05, 0.5, 0.95))

    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert (np.diff(found, axis=0) >= 0).all()


@pytest.mark.parametrize("known", [8, 2000])
def test_factors_stay_the_same_until_something_is_learnt(known: int) -> None:
    calibration = Calibration(endpoints=known)
    for endpoint in range(1, 5):
        for log_ratio in (0.1, 0.2, 0.3):
            calibration.observe(endpoint, endpoint * log_ratio)
    asked = np.array([3, 1, UNKNOWN, 9_999, 4])

    first, *others = (calibration.factors(asked, LEVELS) for _ in range(3))
    calibration.observe(3, -1.0)
    afterwards = calibration.factors(asked, LEVELS)

    for other in others:
        np.testing.assert_array_equal(other, first)
    assert (afterwards != first).any()
    np.testing.assert_array_equal(afterwards[:, 2], afterwards[:, 3])
