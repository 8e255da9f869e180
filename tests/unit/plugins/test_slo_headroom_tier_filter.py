from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import LatencyPrediction
from epp_plugins.filters.slo_headroom_tier_filter import SloHeadroomTierFilter
from tests.support.plugins import make_fleet, make_plugin
from tests.support.predictions import predicted, prediction


def kept(told: LatencyPrediction | None, **parameters: object) -> list[bool]:
    fleet = make_fleet(3)
    tiers = make_plugin(SloHeadroomTierFilter, fleet, **({"epsilonExploreNeg": 0} | parameters))
    return list(tiers.keep(predicted(told), fleet.candidates()))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(prediction([100, 200, 201], ttft_slo_ms=200), [True, True, False], id="TTFT"),
        pytest.param(prediction([9, 9, 9], [10, 31, 30], tpot_slo_ms=30), [True, False, True], id="TPOT"),
        pytest.param(
            prediction([100, 100, 300], [10, 50, 10], ttft_slo_ms=200, tpot_slo_ms=30), [True, False, False], id="both"
        ),
        pytest.param(prediction([100, nan, 300], ttft_slo_ms=200), [True, False, False], id="no prediction of one"),
        pytest.param(
            prediction([9, 9, 9], [20, 20, 20], tpot_budget_ms=[10, inf, 30]),
            [False, True, True],
            id="the SLO of a request that runs there",
        ),
        pytest.param(prediction([300, 400, nan], ttft_slo_ms=200), [True] * 3, id="nobody in time"),
        pytest.param(prediction([100, 100, 100], ttft_slo_ms=200), [True] * 3, id="everybody in time"),
        pytest.param(prediction([100, 200, nan]), [True] * 3, id="no SLO"),
        pytest.param(prediction([nan, nan, nan], ttft_slo_ms=200), [True] * 3, id="no predictions"),
        pytest.param(None, [True] * 3, id="no data"),
    ],
)
def test_who_stays(told: LatencyPrediction | None, expected: list[bool]) -> None:
    assert kept(told) == expected


def test_the_others_get_a_chance() -> None:
    told = prediction([100, 300, nan], ttft_slo_ms=200)
    fleet = make_fleet(3)
    tiers = make_plugin(SloHeadroomTierFilter, fleet, epsilonExploreNeg=0.25)
    answers = [tuple(tiers.keep(predicted(told), fleet.candidates())) for _ in range(4000)]

    assert set(answers) == {(True, False, False), (False, True, True)}
    assert 900 < answers.count((False, True, True)) < 1100
