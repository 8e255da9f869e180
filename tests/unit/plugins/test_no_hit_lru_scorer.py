from __future__ import annotations

import numpy as np

from epp.api import PREFIX_MATCH, Fleet, PrefixMatch, data_key
from epp_plugins.scorers.no_hit_lru_scorer import NoHitLruScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request, picked


def send_cold(scorer: NoHitLruScorer, fleet: Fleet, row: int, **others: int | None) -> None:
    request = make_request()
    scorer.score(request, fleet.candidates())
    scorer.pre_request(request, picked(fleet, row, **others))


def scores(scorer: NoHitLruScorer, fleet: Fleet) -> list[float]:
    return scorer.score(make_request(), fleet.candidates()).tolist()


def test_never_used_endpoints_rank_in_candidate_order() -> None:
    fleet = make_fleet(3)

    assert scores(make_plugin(NoHitLruScorer, fleet), fleet) == [1, 0.5, 0]


def test_used_endpoints_rank_last_and_the_latest_used_lowest() -> None:
    fleet = make_fleet(3)
    scorer = make_plugin(NoHitLruScorer, fleet)
    send_cold(scorer, fleet, 1)
    send_cold(scorer, fleet, 0)

    assert scores(scorer, fleet) == [0, 0.5, 1]


def test_the_endpoint_of_another_profile_counts_as_used() -> None:
    fleet = make_fleet(3)
    scorer = make_plugin(NoHitLruScorer, fleet)
    send_cold(scorer, fleet, 1, prefill=0, encode=None)

    assert scores(scorer, fleet) == [0, 0.5, 1]


def test_any_hit_makes_all_equal_and_is_not_remembered_as_cold() -> None:
    fleet = make_fleet(2)
    scorer = make_plugin(NoHitLruScorer, fleet)
    request = make_request()
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array([0.0, 1.0] + [0.0] * 14), 4, 64)

    assert scorer.score(request, fleet.candidates()).tolist() == [0.5, 0.5]
    scorer.pre_request(request, picked(fleet, 0))
    assert scores(scorer, fleet) == [1, 0]


def test_one_candidate_scores_one() -> None:
    fleet = make_fleet(1)

    assert scores(make_plugin(NoHitLruScorer, fleet), fleet) == [1]


def test_only_the_latest_are_remembered() -> None:
    fleet = make_fleet(3)
    scorer = make_plugin(NoHitLruScorer, fleet, lruSize=1)
    send_cold(scorer, fleet, 0)
    send_cold(scorer, fleet, 1)

    assert scores(scorer, fleet) == [1, 0, 0.5]


def test_an_endpoint_that_went_away_is_forgotten() -> None:
    fleet = make_fleet(2)
    scorer = make_plugin(NoHitLruScorer, fleet)
    send_cold(scorer, fleet, 0)
    scorer.endpoint_removed(fleet.candidates().endpoints[0])

    assert scores(scorer, fleet) == [1, 0]
