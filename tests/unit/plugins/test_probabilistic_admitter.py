from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import KV_CACHE_USAGE, WAITING_REQUESTS, Fleet, RequestError
from epp_plugins.admitters.probabilistic_admitter import ProbabilisticAdmitter
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


def refusals(fleet: Fleet, *, priority: int = -1, times: int = 400, **parameters: object) -> int:
    admitter = make_plugin(ProbabilisticAdmitter, fleet, **parameters)
    request = make_request()
    request.priority = priority
    count = 0
    for _ in range(times):
        try:
            admitter.admit(request, fleet.candidates())
        except RequestError:
            count += 1
    return count


def loaded(*queues: float, usage: float = 0.0) -> Fleet:
    return make_fleet(len(queues), **{WAITING_REQUESTS: queues, KV_CACHE_USAGE: [usage] * len(queues)})


@pytest.mark.parametrize("priority", [0, 5])
def test_requests_that_are_not_sheddable_always_pass(priority: int) -> None:
    assert refusals(loaded(1000, 1000), priority=priority) == 0


@pytest.mark.parametrize(
    ("fleet", "parameters", "expected"),
    [
        (loaded(0, 0), {}, 0),
        (loaded(5, 5), {}, 400),
        # s = (0.4 + 0.2) / 2 = 0.3; 300 * 0.3^5 = 0.729
        (loaded(2, 1), {}, 292),
        # s = max(0.2, 0.4 / 0.8) = 0.5; 0.5^2 = 0.25
        (loaded(1, usage=0.4), {"power": 2, "k": 1}, 100),
        (loaded(nan), {}, 0),
        (loaded(inf), {}, 400),
        (loaded(1000), {"k": 0}, 0),
        (loaded(1000), {"power": 5000}, 400),
        (loaded(1), {"power": 5000}, 0),
    ],
)
def test_the_share_refused_grows_with_the_mean_load(fleet: Fleet, parameters: dict[str, float], expected: int) -> None:
    refused = refusals(fleet, **parameters)

    # Within 4 standard deviations of 400 draws; exact where nothing is left to chance.
    assert abs(refused - expected) <= (36 if 0 < expected < 400 else 0)


def test_no_candidates_are_left_to_who_answers_for_them() -> None:
    assert refusals(Fleet()) == 0


@pytest.mark.parametrize(("seconds", "expected"), [(1, "1"), (30, "30"), (0, None)])
def test_the_refusal_says_why_and_when_to_come_back(seconds: int, expected: str | None) -> None:
    fleet, request = loaded(100), make_request()
    request.priority = -1

    with pytest.raises(RequestError) as raised:
        make_plugin(ProbabilisticAdmitter, fleet, retryAfterSeconds=seconds).admit(request, fleet.candidates())

    assert raised.value.http_status == 429
    assert raised.value.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
    assert raised.value.headers.get("retry-after") == expected
