from __future__ import annotations

from math import nan

import pytest

from epp.api import IN_FLIGHT_REQUESTS, RUNNING_REQUESTS, Fleet, LatencyPrediction, RequestError
from epp_plugins.admitters.latency_slo_admitter import LatencySloAdmitter
from tests.support.plugins import make_fleet, make_plugin
from tests.support.predictions import predicted, prediction

LATE = prediction([1000, 2000], [10, 10], ttft_slo_ms=200)


def refusal(
    told: LatencyPrediction | None,
    *,
    priority: int = -1,
    in_flight: tuple[float, ...] = (1, 1),
    running: tuple[float, ...] = (0, 0),
    **parameters: object,
) -> RequestError | None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: in_flight, RUNNING_REQUESTS: running})
    try:
        make_plugin(LatencySloAdmitter, fleet, **parameters).admit(
            predicted(told, priority=priority), fleet.candidates()
        )
    except RequestError as error:
        return error
    return None


def test_a_refusal_tells_why_and_when_to_come_back() -> None:
    # The low end is 20 % below: 800 and 1600 ms; 600 ms until the first could be in time.
    error = refusal(LATE)

    assert error is not None
    assert error.http_status == 429
    assert error.headers == {"x-llm-d-request-dropped-reason": "rejected-slo-unattainable", "retry-after": "1"}
    assert error.body == (
        "inference error: ResourceExhausted - no endpoint can meet the latency asked for: ttft 200 ms (at best 800 ms)"
    )


@pytest.mark.parametrize(
    ("told", "message"),
    [
        pytest.param(prediction([249, 400], ttft_slo_ms=200), "", id="one may be in time"),
        pytest.param(prediction([251, 400], ttft_slo_ms=200), "ttft 200 ms", id="none may"),
        pytest.param(prediction([9, 9], [60, 70], tpot_slo_ms=40), "tpot 40 ms (at best 48 ms)", id="tokens too slow"),
        pytest.param(
            prediction([900, 9], [9, 60], ttft_slo_ms=200, tpot_slo_ms=40),
            "ttft 200 ms (at best 7.2 ms), tpot 40 ms (at best 7.2 ms)",
            id="each misses another one",
        ),
        pytest.param(prediction([nan, 900], ttft_slo_ms=200), "", id="an endpoint without prediction may be in time"),
        pytest.param(prediction([nan, nan], ttft_slo_ms=200), "", id="no predictions"),
        pytest.param(prediction([900, 900]), "", id="no SLO"),
        pytest.param(
            prediction([9, 9], [60, 60], ttft_slo_ms=200, tpot_budget_ms=[5, 5]), "", id="only others' SLOs are missed"
        ),
        pytest.param(None, "", id="no data"),
    ],
)
def test_only_what_certainly_misses_everywhere_is_refused(told: LatencyPrediction | None, message: str) -> None:
    error = refusal(told)

    assert bool(error) is bool(message)
    assert message in (error.message if error else "")


@pytest.mark.parametrize(("priority", "refused"), [(-1, True), (0, False), (5, False)])
def test_only_sheddable_requests_are_refused(priority: int, refused: bool) -> None:
    assert bool(refusal(LATE, priority=priority)) is refused
    assert refusal(LATE, priority=priority, applyTo="all")


@pytest.mark.parametrize(
    ("in_flight", "running", "idle"),
    [((0, 1), (0, 0), True), ((0, 1), (2, 0), False), ((0, 1), (nan, 0), True), ((1, 1), (0, 0), False)],
)
def test_an_idle_endpoint_may_be_in_time(in_flight: tuple[float, ...], running: tuple[float, ...], idle: bool) -> None:
    assert bool(refusal(LATE, in_flight=in_flight, running=running)) is not idle
    assert refusal(LATE, in_flight=in_flight, running=running, admitToIdle=False)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        pytest.param(prediction([10_000, 5_000], ttft_slo_ms=500), "4", id="until the first could be in time"),
        pytest.param(prediction([300_000, 400_000], ttft_slo_ms=500), "30", id="not longer than told"),
        pytest.param(prediction([9, 9], [60, 60], tpot_slo_ms=40), "1", id="tokens do not wait"),
        pytest.param(
            prediction([9_000, 9], [9, 60], ttft_slo_ms=200, tpot_slo_ms=40), "7", id="who is quick enough at tokens"
        ),
    ],
)
def test_when_to_come_back(told: LatencyPrediction, seconds: str) -> None:
    error = refusal(told, maxRetryAfterSeconds=30)

    assert error is not None
    assert error.headers["retry-after"] == seconds


def test_no_candidates_are_left_to_who_answers_for_them() -> None:
    fleet = Fleet()

    make_plugin(LatencySloAdmitter, fleet).admit(predicted(prediction([]), priority=-1), fleet.candidates())
