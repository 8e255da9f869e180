from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import ConfigError, Fleet
from epp_plugins.scorers.endpoint_attribute_scorer import EndpointAttributeScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request

LOWER, HIGHER = "linear_lower_is_better", "linear_higher_is_better"


def scores(values: list[object], algorithm: str = LOWER, **normalization: object) -> list[float]:
    fleet = make_fleet(len(values))
    for endpoint, value in zip(fleet.candidates(), values, strict=True):
        if value is not None:
            endpoint.attributes["load"] = value
    plugin = make_plugin(
        EndpointAttributeScorer,
        fleet,
        attributeKey="load",
        algorithm={"type": algorithm, "normalization": normalization},
    )
    return list(plugin.score(make_request(), fleet.candidates()))


@pytest.mark.parametrize(
    ("values", "algorithm", "expected"),
    [
        ([10, 20, 50], LOWER, [1, 0.75, 0]),
        ([10, 20, 50], HIGHER, [0, 0.25, 1]),
        ([7, 7], LOWER, [1, 1]),
        ([7], HIGHER, [1]),
        ([10, None, 50], LOWER, [1, 0, 0]),
        ([nan, inf, "x"], LOWER, [0, 0, 0]),
        ([-1.7e308, 1.7e308], HIGHER, [0, 1]),
        ([], LOWER, []),
    ],
)
def test_the_range_is_that_of_the_candidates(values: list[object], algorithm: str, expected: list[float]) -> None:
    assert scores(values, algorithm) == pytest.approx(expected)
    assert scores(values, algorithm, adaptiveRange={}) == pytest.approx(expected)


@pytest.mark.parametrize(("algorithm", "expected"), [(LOWER, [1, 0.75, 0, 0]), (HIGHER, [0, 0.25, 1, 0])])
def test_a_fixed_range_clips(algorithm: str, expected: list[float]) -> None:
    assert scores([-1, 0.5, 9, None], algorithm, fixedRange={"min": 0, "max": 2}) == expected


@pytest.mark.parametrize(
    ("normalization", "said"),
    [
        ({"fixedRange": {"min": 1, "max": 1}}, "must be more than min"),
        ({"fixedRange": {"min": 0, "max": 1}, "adaptiveRange": {}}, "either fixedRange or adaptiveRange"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(normalization: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scores([1], **normalization)


def test_without_a_fleet_there_is_nothing_to_score() -> None:
    plugin = make_plugin(EndpointAttributeScorer, attributeKey="load", algorithm={"type": LOWER})

    assert list(plugin.score(make_request(), Fleet().candidates())) == []
