from __future__ import annotations

import numpy as np
import pytest

from epp.api import (
    IN_FLIGHT_REQUESTS,
    LATENCY_PREDICTION,
    PREFILL_BACKLOG,
    WAITING_REQUESTS,
    Fleet,
    LatencyPrediction,
    PrefillBacklog,
    Request,
    data_key,
)
from epp_plugins.scorers.expected_cost_scorer import ExpectedCostScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request

NAN = float("nan")


def costs(fleet: Fleet, request: Request, **parameters: object) -> list[float]:
    """The costs behind the scores, in seconds, as multiples of the least."""
    scores = np.asarray(make_plugin(ExpectedCostScorer, fleet, **parameters).score(request, fleet.candidates()))
    return [round(1 / score, 6) if score else float("inf") for score in scores.tolist()]


def request_with(
    tokens: list[float], uncached: list[float], rate: list[float], ttft_ms: list[float] | None = None
) -> Request:
    request = make_request()
    request.data[data_key(PREFILL_BACKLOG)] = PrefillBacklog(np.array(tokens), np.array(rate), np.array(uncached))
    if ttft_ms is not None:
        ttft, none = np.array(ttft_ms), np.full(len(ttft_ms), NAN)
        request.data[data_key(LATENCY_PREDICTION)] = LatencyPrediction(np.array([ttft] * 3 + [none] * 3), none)
    return request


@pytest.mark.parametrize(
    ("tokens", "uncached", "rate", "in_flight", "expected_s"),
    [
        ([0, 1000], [0, 0], [1000, 1000], [0, 0], [0.0, 1.0]),
        ([0, 1000], [0, 0], [1000, 500], [0, 0], [0.0, 2.0]),
        ([500, 500], [0, 100], [1000, 1000], [0, 0], [0.5, 0.5 + 0.1 * 3]),
        ([500, 500], [100, 100], [1000, 1000], [0, 10], [0.8, 0.8 + 0.1 * 0.2 * 10 + 0.1]),
        ([0, 0], [0, 0], [1000, 1000], [0, 3], [0.0, 0.03]),
        # What others pay is the same wherever it is read: at the mean rate, 750.
        ([0, 0], [300, 300], [1000, 500], [0, 0], [0.3 + 0.4 * 2, 0.6 + 0.4 * 2]),
    ],
)
def test_cost_is_waiting_reading_and_what_others_lose(
    tokens: list[float], uncached: list[float], rate: list[float], in_flight: list[float], expected_s: list[float]
) -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: in_flight})
    least = min(expected_s) + 0.1

    found = costs(fleet, request_with(tokens, uncached, rate), cacheFillWeight=2, stallWeight=0.2, requestCostMs=10)

    assert found == pytest.approx([(cost + 0.1) / least for cost in expected_s], abs=1e-5)


def test_weights_are_parameters() -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: [0, 5]})
    request = request_with([0, 0], [0, 1000], [1000, 1000])

    assert costs(fleet, request, cacheFillWeight=0, stallWeight=0, requestCostMs=0) == [1, 11]
    assert costs(fleet, request, cacheFillWeight=1, stallWeight=0, requestCostMs=0) == [1, 21]
    assert costs(fleet, request, cacheFillWeight=0, stallWeight=1, requestCostMs=0) == [1, 61]
    assert costs(fleet, request, cacheFillWeight=0, stallWeight=0, requestCostMs=20) == [1, 12]


def test_requests_of_others_count_as_ours_do() -> None:
    fleet, ours = make_fleet(2, **{IN_FLIGHT_REQUESTS: [2, 10]}), make_request()
    theirs = make_request()
    for request, strangers in ((ours, None), (theirs, np.array([8.0, 0.0]))):
        backlog = PrefillBacklog(np.zeros(2), np.full(2, 1000.0), np.full(2, 100.0), strangers)
        request.data[data_key(PREFILL_BACKLOG)] = backlog

    assert costs(fleet, theirs) == [1, 1]
    assert costs(fleet, ours) != [1, 1]
    assert fleet.columns[IN_FLIGHT_REQUESTS][0] == 2


def test_a_difference_near_the_best_is_not_lost_beside_a_bad_endpoint() -> None:
    fleet = make_fleet(3)
    scores = make_plugin(ExpectedCostScorer, fleet).score(
        request_with([0, 200, 1e7], [0, 0, 0], [1000] * 3), fleet.candidates()
    )

    assert scores[0] - scores[1] > 0.5


def test_a_prediction_takes_the_place_of_the_time_to_the_first_token() -> None:
    fleet = make_fleet(2)
    request = request_with([9000, 0], [100, 100], [1000, 1000], ttft_ms=[100, 400])

    assert costs(fleet, request, cacheFillWeight=0, stallWeight=0) == [1, 2.5]


def test_an_endpoint_without_a_prediction_keeps_the_formula() -> None:
    fleet = make_fleet(2)
    request = request_with([100, 900], [0, 0], [1000, 1000], ttft_ms=[NAN, 400])

    assert costs(fleet, request) == [1, 2.5]


def test_an_untrained_predictor_changes_nothing() -> None:
    fleet = make_fleet(2)

    assert costs(fleet, request_with([100, 900], [5, 9], [1000, 1000], ttft_ms=[NAN, NAN])) == costs(
        fleet, request_with([100, 900], [5, 9], [1000, 1000])
    )


def test_an_endpoint_whose_load_is_unknown_is_the_worst() -> None:
    fleet = make_fleet(3, **{WAITING_REQUESTS: [NAN, 0, 0]})
    scores = make_plugin(ExpectedCostScorer, fleet).score(
        request_with([0, 9000, 0], [0] * 3, [1000] * 3), fleet.candidates()
    )

    assert scores[0] == 0 < scores[1] < scores[2] == 1


def test_where_no_load_is_known_the_backlog_decides() -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: [NAN, NAN]})

    assert costs(fleet, request_with([900, 100], [0, 0], [1000, 1000])) == [5, 1]


def test_without_a_backlog_requests_in_flight_decide() -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: [10, 0]})

    assert costs(fleet, make_request()) == [2, 1]


def test_no_candidates_have_no_scores() -> None:
    fleet = Fleet()

    assert len(make_plugin(ExpectedCostScorer, fleet).score(make_request(), fleet.candidates())) == 0
