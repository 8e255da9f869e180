from __future__ import annotations

from collections import Counter
from math import nan

import numpy as np
import pytest

from epp.api import (
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    PREFIX_MATCH,
    LatencyPrediction,
    PrefixMatch,
    data_key,
)
from epp_plugins.scorers.predicted_latency_scorer import PredictedLatencyScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.predictions import predicted, prediction

SURE = {"selectionMode": "max", "epsilonExploreSticky": 0, "epsilonExploreNeg": 0}


def chosen(
    told: LatencyPrediction | None,
    *,
    times: int = 1,
    blocks: tuple[float, ...] = (0, 0, 0),
    in_flight: tuple[float, ...] = (1, 1, 1),
    kv: tuple[float, ...] = (0, 0, 0),
    **parameters: object,
) -> Counter[int]:
    """How often each of three endpoints is the one with score 1."""
    fleet = make_fleet(3, **{IN_FLIGHT_REQUESTS: in_flight, KV_CACHE_USAGE: kv})
    scorer = make_plugin(PredictedLatencyScorer, fleet, **(SURE | parameters))
    request = predicted(told)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array(blocks), 10, 64)
    found: Counter[int] = Counter()
    for _ in range(times):
        scores = scorer.score(request, fleet.candidates())
        assert sorted(scores) == [0.0, 0.0, 1.0]
        found[int(scores.argmax())] += 1
    return found


@pytest.mark.parametrize(
    ("told", "options", "expected"),
    [
        pytest.param(prediction([100, 150, 300], ttft_slo_ms=200), {}, 1, id="least: nearest to the SLO"),
        pytest.param(
            prediction([100, 150, 300], ttft_slo_ms=200), {"headroomSelectionStrategy": "most"}, 0, id="most: farthest"
        ),
        pytest.param(prediction([400, 350, 300], ttft_slo_ms=200), {}, 2, id="nobody in time: least deficit"),
        pytest.param(
            prediction([400, 350, 300], ttft_slo_ms=200), {"in_flight": (0, 0, 1)}, 1, id="of the idle ones, if any"
        ),
        pytest.param(
            prediction([400, 90, 90], [10, 60, 51], ttft_slo_ms=200, tpot_slo_ms=50),
            {},
            2,
            id="an SLO met is no deficit",
        ),
        pytest.param(prediction([300, 200, 100]), {}, 2, id="no SLO: the quickest"),
        pytest.param(prediction([nan, 400, 300], ttft_slo_ms=200), {}, 2, id="no prediction is not chosen"),
        pytest.param(
            prediction([100, 150, 180], ttft_slo_ms=200), {"blocks": (10, 8, 0)}, 0, id="who holds all of the prompt"
        ),
        pytest.param(
            prediction([100, 150, 180], ttft_slo_ms=200), {"blocks": (0, 8, 0)}, 1, id="who holds most of the prompt"
        ),
        pytest.param(
            prediction([100, 9000, 180], ttft_slo_ms=20_000),
            {"blocks": (0, 8, 0), "headroomSelectionStrategy": "most"},
            0,
            id="unless that takes too long",
        ),
        pytest.param(
            prediction([9, 9, 9], [20, 30, 40], tpot_slo_ms=50), {"sloBufferFactor": 0.5}, 0, id="a tighter budget"
        ),
        pytest.param(
            prediction([100, 150, 300], ttft_slo_ms=200),
            {"headroomSelectionStrategy": "composite-most", "kv": (0.5, 0.2, 0.0)},
            1,
            id="composite of those in time",
        ),
        pytest.param(
            prediction([100, 150, 300], ttft_slo_ms=200),
            {"headroomSelectionStrategy": "composite-least", "kv": (0.5, 0.2, 0.0)},
            0,
            id="the least composite",
        ),
        pytest.param(
            prediction([100, 150, 300], ttft_slo_ms=200),
            {"headroomSelectionStrategy": "composite-only", "kv": (0.5, 0.2, 0.0)},
            2,
            id="composite of all",
        ),
        pytest.param(None, {"kv": (0.5, 0.2, 0.9)}, 1, id="no predictions: composite"),
    ],
)
def test_who_is_chosen(told: LatencyPrediction | None, options: dict[str, object], expected: int) -> None:
    assert chosen(told, **options) == {expected: 1}  # type: ignore[arg-type]


def test_linear_chooses_by_weight() -> None:
    # Weights 11 and 91 of those in time: TPOT is the same for all, and counts half.
    found = chosen(prediction([100, 200, 300], ttft_slo_ms=200), times=4000, selectionMode="linear")

    assert found[2] == 0
    assert 350 < found[0] < 520


def test_those_that_miss_the_slo_get_a_chance() -> None:
    found = chosen(prediction([100, 300, 300], ttft_slo_ms=200), times=4000, epsilonExploreNeg=0.25)

    assert 900 < found[1] + found[2] < 1100


def test_gates_are_open_now_and_then() -> None:
    told = prediction([100, 150, 180], ttft_slo_ms=200)
    found = chosen(told, times=4000, blocks=(8, 0, 0), epsilonExploreSticky=0.25)

    assert 900 < found[2] < 1100
