from __future__ import annotations

import msgspec
import numpy as np
import pytest

from epp.api import PREFIX_MATCH, PrefixMatch, Request, data_key
from epp_plugins.scorers.prefix_cache_scorer import PrefixCacheScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


def matched(*blocks: float, total: int, producer: str = "") -> Request:
    request = make_request()
    request.data[data_key(PREFIX_MATCH, producer)] = PrefixMatch(np.array(blocks, dtype=float), total, 64)
    return request


def test_score_is_the_matched_share_of_the_prompt() -> None:
    fleet = make_fleet(3)
    scorer = make_plugin(PrefixCacheScorer, fleet)

    assert scorer.score(matched(0, 2, 8, total=8), fleet.candidates()).tolist() == [0, 0.25, 1]


def test_without_data_everybody_scores_zero() -> None:
    fleet = make_fleet(2)

    assert make_plugin(PrefixCacheScorer, fleet).score(make_request(), fleet.candidates()).tolist() == [0, 0]


def test_a_prompt_shorter_than_a_block_scores_zero() -> None:
    fleet = make_fleet(2)

    assert make_plugin(PrefixCacheScorer, fleet).score(matched(0, 0, total=0), fleet.candidates()).tolist() == [0, 0]


def test_match_length_counts_squared_against_the_scale() -> None:
    fleet = make_fleet(2)
    scorer = make_plugin(PrefixCacheScorer, fleet, matchLengthWeight=0.5, matchLengthScaleTokens=256)

    # 0.5 * (2 * 64 / 256)^2 + 0.5 * 2 / 8, and 0.5 * min(1, 8 * 64 / 256)^2 + 0.5 * 8 / 8
    assert scorer.score(matched(2, 8, total=8), fleet.candidates()).tolist() == [0.25, 1.0]


def test_data_are_read_from_the_named_producer_only() -> None:
    fleet = make_fleet(1)
    scorer = make_plugin(PrefixCacheScorer, fleet, prefixMatchInfoProducerName="precise")

    assert scorer.consumes() == ("PrefixCacheMatchInfo/precise",)
    assert scorer.score(matched(1, total=1), fleet.candidates()).tolist() == [0]
    assert scorer.score(matched(1, total=1, producer="precise"), fleet.candidates()).tolist() == [1]


def test_data_are_read_by_row_not_by_position() -> None:
    fleet = make_fleet(3)
    candidates = fleet.candidates().keep([False, False, True])

    assert make_plugin(PrefixCacheScorer, fleet).score(matched(0, 0, 4, total=4), candidates).tolist() == [1]


@pytest.mark.parametrize("parameters", [{"matchLengthWeight": 1.5}, {"matchLengthScaleTokens": 0}, {"weight": 1}])
def test_parameters_out_of_range_or_unknown_are_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_plugin(PrefixCacheScorer, **parameters)
