from __future__ import annotations

import numpy as np
import pytest

from epp.api import IN_FLIGHT_LOAD, IN_FLIGHT_TOKENS, InFlightLoad, data_key
from epp_plugins.scorers.token_load_scorer import TokenLoadScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("tokens", "scores"),
    [([], []), ([0], [1]), ([100, 100], [0.75, 0.75]), ([0, 200, 400, 900], [1, 0.5, 0, 0])],
)
def test_fewer_tokens_in_flight_score_higher(tokens: list[float], scores: list[float]) -> None:
    fleet = make_fleet(len(tokens), **{IN_FLIGHT_TOKENS: tokens})
    scorer = make_plugin(TokenLoadScorer, fleet, queueThresholdTokens=400)

    assert scorer.score(make_request(), fleet.candidates()).tolist() == scores


def test_tokens_that_this_request_would_add_count_too() -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_TOKENS: [100, 200]})
    request = make_request()
    request.data[data_key(IN_FLIGHT_LOAD)] = InFlightLoad(np.array([200.0, 0.0]))

    scores = make_plugin(TokenLoadScorer, fleet, queueThresholdTokens=400).score(request, fleet.candidates())

    assert scores.tolist() == [0.25, 0.5]


def test_scoring_does_not_change_the_counts() -> None:
    fleet = make_fleet(1, **{IN_FLIGHT_TOKENS: [100]})
    request = make_request()
    request.data[data_key(IN_FLIGHT_LOAD)] = InFlightLoad(np.array([50.0]))
    make_plugin(TokenLoadScorer, fleet).score(request, fleet.candidates())

    assert fleet.columns[IN_FLIGHT_TOKENS][0] == 100
