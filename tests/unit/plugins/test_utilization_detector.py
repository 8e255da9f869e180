from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import KV_CACHE_USAGE, METRICS_UPDATED_S, WAITING_REQUESTS, ConfigError
from epp_plugins.detectors.utilization_detector import UtilizationDetector
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request

NOW = 1000.0  # of the tests' clock


@pytest.mark.parametrize(
    ("queues", "usage", "updated", "saturation"),
    [
        pytest.param([], [], [], 1.0, id="no candidates"),
        pytest.param([0], [0], [NOW], 0.0, id="idle"),
        pytest.param([10], [0.4], [NOW], 2.0, id="the queue dominates"),
        pytest.param([0], [0.4], [NOW], 0.5, id="the cache dominates"),
        pytest.param([0, 10], [0.4, 0], [NOW, NOW], 1.25, id="mean over endpoints"),
        pytest.param([0, 0], [0, 0], [NOW, NOW - 0.25], 0.5, id="old metrics count as full"),
        pytest.param([0], [0], [-inf], 1.0, id="never read counts as full"),
        pytest.param([0, inf], [nan, 0], [NOW, NOW], 1.0, id="unreadable counts as full"),
    ],
)
def test_saturation(queues: list[float], usage: list[float], updated: list[float], saturation: float) -> None:
    columns = {WAITING_REQUESTS: queues, KV_CACHE_USAGE: usage, METRICS_UPDATED_S: updated}
    fleet = make_fleet(len(queues), **columns)

    assert make_plugin(UtilizationDetector, fleet).saturation(fleet.candidates()) == saturation


@pytest.mark.parametrize(("headroom", "kept"), [(0, [True, False, False, False]), (0.5, [True, True, True, False])])
def test_endpoints_with_room_stay(headroom: float, kept: list[bool]) -> None:
    columns = {WAITING_REQUESTS: [4, 5, 0, 0], KV_CACHE_USAGE: [0.7, 0, 0.8, 0], METRICS_UPDATED_S: [NOW, NOW, NOW, 0]}
    fleet = make_fleet(4, **columns)
    detector = make_plugin(UtilizationDetector, fleet, headroom=headroom)

    assert list(detector.keep(make_request(), fleet.candidates())) == kept


def test_when_nobody_has_room_all_stay() -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: [9, 9], METRICS_UPDATED_S: [NOW, NOW]})

    assert list(make_plugin(UtilizationDetector, fleet).keep(make_request(), fleet.candidates())) == [True, True]


def test_staleness_is_a_duration() -> None:
    fleet = make_fleet(1, **{METRICS_UPDATED_S: [NOW - 1.5]})
    detector = make_plugin(UtilizationDetector, fleet, metricsStalenessThreshold="2s")

    assert detector.saturation(fleet.candidates()) == 0.0


@pytest.mark.parametrize("duration", ["", "200", "0", "-1s", "2 s"])
def test_a_staleness_that_is_no_positive_duration_is_refused(duration: str) -> None:
    with pytest.raises(ConfigError, match="metricsStalenessThreshold"):
        make_plugin(UtilizationDetector, metricsStalenessThreshold=duration)
