from __future__ import annotations

import pytest

from epp.api import IN_FLIGHT_REQUESTS, IN_FLIGHT_TOKENS
from epp_plugins.detectors.concurrency_detector import ConcurrencyDetector
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request

LIMITS = {"maxConcurrency": 10, "maxTokenConcurrency": 100}


@pytest.mark.parametrize(
    ("mode", "saturation"),
    [
        pytest.param("requests", 0.75, id="(5 + 10) / 20"),
        pytest.param("tokens", 0.5, id="(100 + 0) / 200"),
        pytest.param("hybrid", 1.0, id="mean of max(0.5, 1) and max(1, 0)"),
    ],
)
def test_saturation_by_mode(mode: str, saturation: float) -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: [5, 10], IN_FLIGHT_TOKENS: [100, 0]})

    assert (
        make_plugin(ConcurrencyDetector, fleet, concurrencyMode=mode, **LIMITS).saturation(fleet.candidates())
        == saturation
    )


def test_no_candidates_are_full() -> None:
    fleet = make_fleet(0)

    assert make_plugin(ConcurrencyDetector, fleet).saturation(fleet.candidates()) == 1.0


@pytest.mark.parametrize(
    ("mode", "headroom", "kept"),
    [
        ("requests", 0, [True, False, True]),
        ("requests", 0.5, [True, True, True]),
        ("tokens", 0, [True, True, False]),
        ("hybrid", 0, [True, False, False]),
    ],
)
def test_endpoints_below_their_limit_stay(mode: str, headroom: float, kept: list[bool]) -> None:
    fleet = make_fleet(3, **{IN_FLIGHT_REQUESTS: [9, 10, 0], IN_FLIGHT_TOKENS: [0, 99, 100]})
    detector = make_plugin(ConcurrencyDetector, fleet, concurrencyMode=mode, headroom=headroom, **LIMITS)

    assert list(detector.keep(make_request(), fleet.candidates())) == kept


def test_it_may_keep_nobody() -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: [10, 11]})

    assert list(make_plugin(ConcurrencyDetector, fleet, **LIMITS).keep(make_request(), fleet.candidates())) == [
        False,
        False,
    ]
