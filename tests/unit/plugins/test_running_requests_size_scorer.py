from __future__ import annotations

import pytest

from epp.api import RUNNING_REQUESTS
from epp_plugins.scorers.running_requests_size_scorer import RunningRequestsSizeScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(("running", "scores"), [([], []), ([9], [1]), ([2, 2], [1, 1]), ([1, 2, 5], [1, 0.75, 0])])
def test_fewest_running_score_one_and_most_zero(running: list[float], scores: list[float]) -> None:
    fleet = make_fleet(len(running), **{RUNNING_REQUESTS: running})

    assert make_plugin(RunningRequestsSizeScorer, fleet).score(make_request(), fleet.candidates()).tolist() == scores
