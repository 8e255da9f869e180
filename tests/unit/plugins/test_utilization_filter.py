from __future__ import annotations

from math import nan

import msgspec
import pytest

from epp.api import IN_FLIGHT_REQUESTS, KV_CACHE_USAGE, RUNNING_REQUESTS, WAITING_REQUESTS
from epp_plugins.filters.utilization_filter import UtilizationFilter
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("metric", "column"),
    [
        ("active-requests", IN_FLIGHT_REQUESTS),
        ("running-requests", RUNNING_REQUESTS),
        ("waiting-queue", WAITING_REQUESTS),
        ("kv-cache-utilization", KV_CACHE_USAGE),
    ],
)
def test_endpoints_up_to_the_limit_stay(metric: str, column: str) -> None:
    fleet = make_fleet(4, **{column: [0.2, 0.5, 0.6, nan]})
    plugin = make_plugin(UtilizationFilter, fleet, conditions=[{"metric": metric, "maxValue": 0.5}])

    assert list(plugin.keep(make_request(), fleet.candidates())) == [True, True, False, True]


def test_every_condition_must_be_met() -> None:
    fleet = make_fleet(3, **{WAITING_REQUESTS: [1, 9, 1], KV_CACHE_USAGE: [0.1, 0.1, 0.9]})
    conditions = [{"metric": "waiting-queue", "maxValue": 5}, {"metric": "kv-cache-utilization", "maxValue": 0.5}]
    plugin = make_plugin(UtilizationFilter, fleet, conditions=conditions)

    assert list(plugin.keep(make_request(), fleet.candidates())) == [True, False, False]


@pytest.mark.parametrize("fallback", [False, True])
def test_when_nobody_meets_them_the_fallback_decides(fallback: bool) -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: [8, 9]})
    conditions = [{"metric": "waiting-queue", "maxValue": 5}]
    plugin = make_plugin(UtilizationFilter, fleet, conditions=conditions, fallbackOnEmpty=fallback)

    assert list(plugin.keep(make_request(), fleet.candidates())) == [fallback, fallback]


def test_only_a_condition_on_active_requests_needs_their_producer() -> None:
    active = make_plugin(UtilizationFilter, conditions=[{"metric": "active-requests", "maxValue": 5}])
    waiting = make_plugin(UtilizationFilter, conditions=[{"metric": "waiting-queue", "maxValue": 5}])

    assert active.consumes() == ("InFlightLoad/inflight-load-producer",)
    assert waiting.consumes() == ()


@pytest.mark.parametrize(
    "conditions", [[], [{"metric": "disk", "maxValue": 1}], [{"metric": "waiting-queue", "maxValue": -1}]]
)
def test_conditions_that_make_no_sense_are_refused(conditions: list[dict[str, object]]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_plugin(UtilizationFilter, conditions=conditions)
