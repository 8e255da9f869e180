from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import WAITING_REQUESTS
from epp_plugins.scorers.queue_scorer import QueueScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("queues", "scores"),
    [
        pytest.param([], [], id="no candidates"),
        pytest.param([7], [1], id="one"),
        pytest.param([3, 3, 3], [1, 1, 1], id="equal"),
        pytest.param([0, 5, 10], [1, 0.5, 0], id="linear between the extremes"),
        pytest.param([0, 1], [1, 0], id="relative, however small the difference"),
        pytest.param([nan, 0, 10], [0, 1, 0], id="an unreadable value is worst"),
        pytest.param([inf, 0, 10], [0, 1, 0], id="an infinite value is worst and does not flatten the others"),
        pytest.param([nan, nan], [0, 0], id="nothing readable"),
    ],
)
def test_shortest_queue_scores_one_and_longest_zero(queues: list[float], scores: list[float]) -> None:
    fleet = make_fleet(len(queues), **{WAITING_REQUESTS: queues})

    assert make_plugin(QueueScorer, fleet).score(make_request(), fleet.candidates()).tolist() == scores


def test_endpoints_without_metrics_count_as_empty() -> None:
    fleet = make_fleet(2)
    fleet.columns[WAITING_REQUESTS][0] = 4

    assert make_plugin(QueueScorer, fleet).score(make_request(), fleet.candidates()).tolist() == [0, 1]


def test_only_candidates_are_compared() -> None:
    fleet = make_fleet(3, **{WAITING_REQUESTS: [0, 5, 10]})
    candidates = fleet.candidates().keep([False, True, True])

    assert make_plugin(QueueScorer, fleet).score(make_request(), candidates).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("queues", "scores"),
    [
        ([0, 1], [1, 0.9]),
        ([4, 9, 4], [1, 0.5, 1]),
        ([0, 10], [1, 0]),
        ([0, 500, 250], [1, 0, 0.5]),
        ([7, 7], [1, 1]),
        ([0, float("nan"), 1], [1, 0, 0.9]),
        ([], []),
    ],
)
def test_queues_that_lie_close_together_differ_less_with_a_least_spread(
    queues: list[float], scores: list[float]
) -> None:
    fleet = make_fleet(len(queues), **{WAITING_REQUESTS: queues})

    scored = make_plugin(QueueScorer, fleet, minSpread=10).score(make_request(), fleet.candidates())

    assert list(scored) == pytest.approx(scores)
