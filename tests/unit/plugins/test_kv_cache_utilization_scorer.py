from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import KV_CACHE_USAGE
from epp_plugins.scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("usage", "scores"),
    [
        pytest.param([], [], id="no candidates"),
        pytest.param([0.25], [0.75], id="absolute, not relative to others"),
        pytest.param([0, 0.5, 1], [1, 0.5, 0], id="edges"),
        pytest.param([1.5, -1, inf, nan], [0, 1, 0, 0], id="out of range or unreadable"),
    ],
)
def test_score_is_the_free_share(usage: list[float], scores: list[float]) -> None:
    fleet = make_fleet(len(usage), **{KV_CACHE_USAGE: usage})

    assert make_plugin(KvCacheUtilizationScorer, fleet).score(make_request(), fleet.candidates()).tolist() == scores
