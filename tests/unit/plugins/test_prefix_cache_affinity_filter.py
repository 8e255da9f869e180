from __future__ import annotations

from math import nan

import numpy as np
import pytest

from epp.api import IN_FLIGHT_TOKENS, LATENCY_PREDICTION, PREFIX_MATCH, PrefixMatch, Request, data_key
from epp_plugins.filters.prefix_cache_affinity_filter import PrefixCacheAffinityFilter
from tests.support.plugins import make_fleet, make_plugin
from tests.support.predictions import prediction
from tests.support.scheduling import make_request


def matched(*blocks: float, total: int = 10) -> Request:
    request = make_request()
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array(blocks), total, 64)
    return request


def kept(request: Request, *, tokens: list[float] | None = None, count: int = 3, **parameters: object) -> list[bool]:
    fleet = make_fleet(count, **{IN_FLIGHT_TOKENS: tokens or [0.0] * count})
    return list(make_plugin(PrefixCacheAffinityFilter, fleet, **parameters).keep(request, fleet.candidates()))


def test_endpoints_at_the_threshold_and_above_stay() -> None:
    assert kept(matched(8, 7, 10)) == [True, False, True]


@pytest.mark.parametrize(
    ("request_", "parameters"),
    [
        pytest.param(matched(7, 0, 0), {}, id="nobody holds enough"),
        pytest.param(matched(9, 0, 0, total=0), {}, id="a prompt without blocks"),
        pytest.param(make_request(), {}, id="no data"),
        pytest.param(matched(9, 0, 0), {"affinityThreshold": 0}, id="threshold 0 switches it off"),
        pytest.param(matched(9, 0, 0), {"explorationProbability": 1}, id="exploration"),
    ],
)
def test_all_stay(request_: Request, parameters: dict[str, object]) -> None:
    assert kept(request_, **parameters) == [True, True, True]


@pytest.mark.parametrize(("waiting_tokens", "stays"), [(180, True), (181, False)])
def test_stickiness_ends_where_the_wait_is_longer_than_the_penalty(waiting_tokens: float, stays: bool) -> None:
    # 10 tokens per ms: 18 ms against 0 ms with a penalty of 18 ms.
    parameters = {"peakPrefillThroughput": 10_000, "maxTTFTPenaltyMs": 18}

    assert kept(matched(10, 0, 0), tokens=[waiting_tokens, 0, 500], **parameters) == ([True, not stays, not stays])


def test_penalty_zero_sticks_always() -> None:
    assert kept(matched(10, 0, 0), tokens=[1e12, 0, 0], maxTTFTPenaltyMs=0) == [True, False, False]


@pytest.mark.parametrize(
    ("predicted_ms", "sticks"),
    [
        pytest.param([50.0, 20.0, 90.0], True, id="within the penalty"),
        pytest.param([200.0, 20.0, 90.0], False, id="beyond it"),
        pytest.param([nan, 20.0, 90.0], False, id="no prediction is the worst one"),
        pytest.param([nan, nan, nan], True, id="no predictions at all"),
        pytest.param(None, True, id="no predictor"),
    ],
)
def test_latency_predictor_as_source(predicted_ms: list[float] | None, sticks: bool) -> None:
    request = matched(10, 0, 0)
    if predicted_ms is not None:
        request.data[data_key(LATENCY_PREDICTION)] = prediction(predicted_ms)

    answer = kept(request, ttftSource="latencyPredictor", maxTTFTPenaltyMs=100)

    assert answer == [True, not sticks, not sticks]


def test_exploration_happens_with_its_probability() -> None:
    fleet = make_fleet(2)
    plugin = make_plugin(PrefixCacheAffinityFilter, fleet, explorationProbability=0.25)
    explored = sum(plugin.keep(matched(10, 0), fleet.candidates())[1] for _ in range(4000))

    assert 900 < explored < 1100


def test_what_it_reads_follows_from_the_source() -> None:
    assert make_plugin(PrefixCacheAffinityFilter).consumes() == (
        "PrefixCacheMatchInfo/approx-prefix-cache-producer",
        "InFlightLoad/inflight-load-producer",
    )
    assert make_plugin(PrefixCacheAffinityFilter, ttftSource="latencyPredictor").consumes() == (
        "PrefixCacheMatchInfo/approx-prefix-cache-producer",
        "LatencyPredictionInfo/predicted-latency-producer",
    )
