from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from epp.api import IN_FLIGHT_REQUESTS, Picker
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from epp_plugins.pickers.random_picker import RandomPicker
from epp_plugins.pickers.weighted_random_picker import WeightedRandomPicker
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request

ALL = (MaxScorePicker, RandomPicker, WeightedRandomPicker)


def firsts(picker: Picker, scores: list[float], *, times: int) -> Counter[int]:
    candidates = picker.handle.fleet.candidates()
    return Counter(picker.pick(make_request(), candidates, np.array(scores))[0] for _ in range(times))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("asked", "given"), [(-1, 1), (0, 1), (1, 1), (2, 2), (9, 3)])
def test_as_many_different_endpoints_as_asked_and_there(kind: type[Picker], asked: int, given: int) -> None:
    fleet = make_fleet(3)
    positions = make_plugin(kind, fleet, maxNumOfEndpoints=asked).pick(
        make_request(), fleet.candidates(), np.array([0.1, 0.0, 0.3])
    )

    assert len(set(positions)) == len(positions) == given


@pytest.mark.parametrize("kind", ALL)
def test_the_only_candidate_is_picked(kind: type[Picker]) -> None:
    fleet = make_fleet(1)

    assert list(make_plugin(kind, fleet).pick(make_request(), fleet.candidates(), np.zeros(1))) == [0]


def test_max_score_takes_the_best_first() -> None:
    fleet = make_fleet(4)
    scores = np.array([1.0, 3.0, 0.0, 2.0])

    assert list(make_plugin(MaxScorePicker, fleet).pick(make_request(), fleet.candidates(), scores)) == [1]
    several = make_plugin(MaxScorePicker, fleet, maxNumOfEndpoints=3)
    assert list(several.pick(make_request(), fleet.candidates(), scores)) == [1, 3, 0]


@pytest.mark.parametrize("asked", [1, 2])
def test_equal_totals_go_to_the_fewest_in_flight(asked: int) -> None:
    fleet = make_fleet(4, **{IN_FLIGHT_REQUESTS: [2, 5, 1, 0]})
    picker = make_plugin(MaxScorePicker, fleet, maxNumOfEndpoints=asked)

    assert list(picker.pick(make_request(), fleet.candidates(), np.array([7.0, 7.0, 7.0, 6.0]))) == [2, 0][:asked]


@pytest.mark.parametrize("asked", [1, 2])
def test_equal_totals_and_loads_are_all_equally_likely(asked: int) -> None:
    picker = make_plugin(MaxScorePicker, make_fleet(4), maxNumOfEndpoints=asked)
    counts = firsts(picker, [5.0, 1.0, 5.0, 5.0], times=3000)

    assert set(counts) == {0, 2, 3}
    assert all(900 < n < 1100 for n in counts.values())


def test_random_ignores_totals() -> None:
    counts = firsts(make_plugin(RandomPicker, make_fleet(4)), [9.0, 0.0, 0.0, 0.0], times=4000)

    assert all(900 < counts[i] < 1100 for i in range(4))


def test_weighted_random_treats_negative_totals_as_none() -> None:
    assert set(firsts(make_plugin(WeightedRandomPicker, make_fleet(3)), [-5.0, -1.0, 0.5], times=50)) == {2}
    assert set(firsts(make_plugin(WeightedRandomPicker, make_fleet(3)), [-5.0, -1.0, 0.0], times=50)) == {0, 1, 2}


@pytest.mark.parametrize("asked", [1, 3])
def test_weighted_random_first_picks_follow_the_totals(asked: int) -> None:
    scores = [1.0, 2.0, 3.0, 4.0]
    counts = firsts(make_plugin(WeightedRandomPicker, make_fleet(4), maxNumOfEndpoints=asked), scores, times=20_000)

    for i, score in enumerate(scores):
        assert counts[i] / 20_000 == pytest.approx(score / 10, rel=0.05)


def test_weighted_random_without_replacement_has_the_right_second_pick() -> None:
    fleet = make_fleet(3)
    picker = make_plugin(WeightedRandomPicker, fleet, maxNumOfEndpoints=2)
    pairs = Counter(
        tuple(picker.pick(make_request(), fleet.candidates(), np.array([1.0, 2.0, 3.0]))) for _ in range(20_000)
    )

    # P(2 first) * P(1 second | 2 first) = 3/6 * 2/3
    assert pairs[2, 1] / 20_000 == pytest.approx(1 / 3, rel=0.05)


def test_weighted_random_survives_totals_of_any_size() -> None:
    counts = firsts(make_plugin(WeightedRandomPicker, make_fleet(3)), [1e-300, 3e-300, 0.0], times=4000)

    assert counts[1] / 4000 == pytest.approx(0.75, rel=0.05)
    assert counts[2] == 0


def test_weighted_random_tells_the_smallest_total_from_none() -> None:
    fleet = make_fleet(3)
    everyone = make_plugin(WeightedRandomPicker, fleet, maxNumOfEndpoints=3)

    assert set(firsts(make_plugin(WeightedRandomPicker, fleet), [0.0, 5e-324, 0.0], times=50)) == {1}
    for _ in range(50):
        assert everyone.pick(make_request(), fleet.candidates(), np.array([0.0, 5e-324, 1.0])) == [2, 1, 0]


def test_weighted_random_without_any_weight_is_uniform() -> None:
    counts = firsts(make_plugin(WeightedRandomPicker, make_fleet(4)), [0.0] * 4, times=4000)

    assert all(900 < counts[i] < 1100 for i in range(4))


def test_weighted_random_puts_endpoints_without_weight_last() -> None:
    fleet = make_fleet(3)
    picker = make_plugin(WeightedRandomPicker, fleet, maxNumOfEndpoints=3)

    assert all(picker.pick(make_request(), fleet.candidates(), np.array([0.0, 1.0, 2.0]))[2] == 0 for _ in range(50))


@pytest.mark.parametrize(("power", "chances"), [(0, [0.5, 0.5, 0]), (2, [0.2, 0.8, 0]), (400, [0, 1, 0])])
def test_weighted_random_counts_totals_raised_to_a_power(power: float, chances: list[float]) -> None:
    picker = make_plugin(WeightedRandomPicker, make_fleet(3), power=power)

    counts = firsts(picker, [3.0, 6.0, 0.0], times=4000)

    assert [counts[i] / 4000 for i in range(3)] == pytest.approx(chances, abs=0.04)


def test_weighted_random_with_a_high_power_still_tells_a_chance_from_none() -> None:
    fleet = make_fleet(3)
    picker = make_plugin(WeightedRandomPicker, fleet, maxNumOfEndpoints=3, power=1000)

    assert picker.pick(make_request(), fleet.candidates(), np.array([0.0, 0.1, 1.0])) == [2, 1, 0]
