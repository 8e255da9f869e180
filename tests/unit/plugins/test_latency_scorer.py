from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from epp.api import (
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    PREFIX_MATCH,
    WAITING_REQUESTS,
    LatencyPrediction,
    PrefixMatch,
    Request,
    data_key,
)
from epp_plugins.scorers.latency_scorer import LatencyScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.predictions import predicted, prediction


def scores(
    told: LatencyPrediction | None,
    *,
    in_flight: list[float] | None = None,
    count: int = 3,
    request: Request | None = None,
    columns: dict[str, list[float]] | None = None,
    **parameters: object,
) -> list[float]:
    fleet = make_fleet(count, **{IN_FLIGHT_REQUESTS: in_flight or [1.0] * count}, **(columns or {}))
    scorer = make_plugin(LatencyScorer, fleet, **parameters)
    return [float(s) for s in scorer.score(request or predicted(told), fleet.candidates())]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # Headrooms 100, 50, 0: spread to 1, 0.5, 0.
        pytest.param("least", [0.01, 0.51, 1.0], id="least: nearest to the SLO"),
        pytest.param("most", [1.0, 0.51, 0.01], id="most: farthest from it"),
    ],
)
def test_headroom_of_those_that_meet_the_slo(strategy: str, expected: list[float]) -> None:
    told = prediction([100, 150, 200], ttft_slo_ms=200)

    assert scores(told, headroomSelectionStrategy=strategy) == expected


def test_ttft_and_tpot_are_weighted() -> None:
    # TTFT spread 1, 0; TPOT spread 0, 1: combined 0.8 and 0.2.
    told = prediction([100, 200], [20, 10], ttft_slo_ms=300, tpot_slo_ms=30)

    assert scores(told, count=2) == [0.2, 0.81]
    assert scores(told, count=2, ttftWeight=1, tpotWeight=3) == [0.76, 0.26]
    assert scores(told, count=2, ttftWeight=0, tpotWeight=0) == [0.01, 1.0]


def test_who_misses_an_slo_scores_nothing_beside_one_that_meets_all() -> None:
    told = prediction([100, 100, 900], [10, 90, 10], ttft_slo_ms=200, tpot_slo_ms=50)

    assert scores(told) == [0.51, 0.0, 0.0]


def test_an_endpoint_without_prediction_scores_nothing_beside_one_that_misses_the_slo() -> None:
    assert scores(prediction([nan, 900, 800], ttft_slo_ms=200)) == [0.0, 0.01, 1.0]


def test_a_gap_in_one_target_is_no_prediction() -> None:
    assert scores(prediction([100, 150, 180], [nan, 10, 20], ttft_slo_ms=200), tpotWeight=0) == [0.0, 0.01, 1.0]


@pytest.mark.parametrize("strategy", ["least", "most"])
def test_without_an_slo_the_quickest_is_best_even_beside_an_idle_one(strategy: str) -> None:
    told = prediction([100, 300, 200], [10, 10, 10])

    best = scores(told, in_flight=[5, 0, 5], headroomSelectionStrategy=strategy)
    assert best == [1.0, 0.01, 0.51]


def test_an_slo_that_was_not_asked_for_is_not_missed() -> None:
    # Only TTFT is asked for: by TPOT the lower prediction is better.
    told = prediction([100, 150, 900], [30, 10, 20], ttft_slo_ms=200)

    assert scores(told) == [0.01, 1.0, 0.0]


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        pytest.param([3, 0, 0, 3], [0.0, 0.01, 1.0, 0.0], id="idle ones first"),
        pytest.param([3, 3, 3, 3], [0.51, 0.0, 0.0, 0.0], id="then who misses TPOT alone"),
    ],
)
def test_when_nobody_meets_the_slo(in_flight: list[float], expected: list[float]) -> None:
    told = prediction([100, 900, 800, 300], [90, 90, 90, 40], ttft_slo_ms=200, tpot_slo_ms=50)

    assert scores(told, in_flight=in_flight, count=4) == expected


def test_who_misses_ttft_alone_goes_before_who_misses_both() -> None:
    told = prediction([900, 500, 300], [10, 20, 90], ttft_slo_ms=200, tpot_slo_ms=50)

    # Least deficit first, also with `most`.
    assert scores(told, headroomSelectionStrategy="most", tpotWeight=0) == [0.01, 1.0, 0.0]


def test_an_slo_of_a_request_that_runs_there_counts() -> None:
    told = prediction([100, 100, 100], [20, 20, 20], tpot_budget_ms=[10, inf, 30])

    assert scores(told) == [0.0, 0.51, 0.51]


def test_equal_predictions_score_equally() -> None:
    assert scores(prediction([100, 100, 100], [5, 5, 5], ttft_slo_ms=200)) == [0.51] * 3


def test_more_than_a_hundred_endpoints() -> None:
    told = prediction(list(range(1, 301)), ttft_slo_ms=1000)

    found = scores(told, count=300, headroomSelectionStrategy="most")
    assert found[0] == 1.0
    assert found[299] == 0.01


def matched(told: LatencyPrediction | None, *blocks: float) -> Request:
    request = predicted(told)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array(blocks), 10, 64)
    return request


LOADS = {KV_CACHE_USAGE: [0.5, 0.25, 0.0], WAITING_REQUESTS: [0.0, 2.0, 4.0]}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # (free cache + short queue + prefix) / 3: (0.5 + 1 + 0.3)/3, (0.75 + 0.5 + 0)/3, (1 + 0 + 1)/3
        pytest.param({}, [0.6, 0.42, 0.67], id="all alike"),
        pytest.param({"compositeQueueWeight": 0, "compositePrefixWeight": 0}, [0.5, 0.75, 1.0], id="cache"),
        pytest.param({"compositeKVWeight": 0, "compositePrefixWeight": 0}, [1.0, 0.5, 0.0], id="queue"),
        pytest.param({"compositeKVWeight": 0, "compositeQueueWeight": 0}, [0.3, 0.0, 1.0], id="prefix"),
        pytest.param(
            {"compositeKVWeight": 0, "compositeQueueWeight": 0, "compositePrefixWeight": 0},
            [0.5, 0.75, 1.0],
            id="no weight at all: cache",
        ),
    ],
)
@pytest.mark.parametrize(
    "told",
    [None, prediction([nan, nan, nan], ttft_slo_ms=1), prediction([100, nan, nan], [nan, 10, nan], ttft_slo_ms=1)],
    ids=["none", "of nobody", "of nobody whole"],
)
def test_without_predictions_a_composite_decides(
    told: LatencyPrediction | None, parameters: dict[str, object], expected: list[float]
) -> None:
    assert scores(None, request=matched(told, 3, 0, 10), columns=LOADS, **parameters) == expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("composite-most", [0.6, 0.42, 0.0]),
        ("composite-least", [0.4, 0.58, 0.0]),
        ("composite-only", [0.6, 0.42, 0.67]),
    ],
)
def test_composite_strategies(strategy: str, expected: list[float]) -> None:
    told = prediction([100, 100, 900], ttft_slo_ms=200)
    found = scores(None, request=matched(told, 3, 0, 10), columns=LOADS, headroomSelectionStrategy=strategy)

    assert found == pytest.approx(expected)


def test_unknown_loads_are_none_of_the_good() -> None:
    columns = {KV_CACHE_USAGE: [nan, 0.5, 0.0], WAITING_REQUESTS: [nan, 4.0, 2.0]}

    assert scores(None, columns=columns, compositePrefixWeight=0) == [0.0, 0.25, 0.75]


def test_no_prompt_blocks_no_prefix() -> None:
    request = predicted(None)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.zeros(3), 0, 64)

    assert scores(None, request=request) == [0.67] * 3
