from __future__ import annotations

import msgspec
import pytest

from epp.api import WAITING_REQUESTS
from epp_plugins.scorers.load_aware_scorer import LoadAwareScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("queues", "scores"),
    [([], []), ([0], [0.5]), ([32, 64, 128, 4000], [0.375, 0.25, 0, 0])],
)
def test_half_for_an_empty_queue_and_nothing_from_the_threshold_on(queues: list[float], scores: list[float]) -> None:
    fleet = make_fleet(len(queues), **{WAITING_REQUESTS: queues})

    assert make_plugin(LoadAwareScorer, fleet).score(make_request(), fleet.candidates()).tolist() == scores


def test_threshold_is_configurable() -> None:
    fleet = make_fleet(1, **{WAITING_REQUESTS: [5]})

    assert make_plugin(LoadAwareScorer, fleet, threshold=10).score(make_request(), fleet.candidates()).tolist() == [
        0.25
    ]


def test_threshold_zero_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="threshold"):
        make_plugin(LoadAwareScorer, threshold=0)
