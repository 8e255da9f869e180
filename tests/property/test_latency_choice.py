"""Whatever is predicted, and whatever is asked for: plugins that go by predictions rate every candidate and add none."""

from __future__ import annotations

from math import inf, nan
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.api import LATENCY_PREDICTION, PREFIX_MATCH, Fleet, PrefixMatch, Request, Scorer, data_key
from epp_plugins.filters.slo_headroom_tier_filter import SloHeadroomTierFilter
from epp_plugins.scorers.latency_scorer import LatencyScorer
from epp_plugins.scorers.predicted_latency_scorer import PredictedLatencyScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.predictions import prediction
from tests.support.scheduling import make_request

STRATEGIES = get_args(
    next(f for f in msgspec.structs.fields(LatencyScorer.Params) if f.name == "headroom_selection_strategy").type
)
times_ms = st.one_of(st.sampled_from([0.0, 1.0, nan, 1e-300, 1e12]), st.floats(0, 1e5))
slos_ms = st.one_of(st.just(inf), st.floats(1e-3, 1e9))
loads = st.one_of(st.sampled_from([0.0, 0.25, 1.0, -1.0, nan]), st.integers(0, 10**6).map(float))
shares = st.floats(0, 1)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Fleet, Request]:
    """A fleet with any loads, and a request of which any latencies are predicted, all, some, or none of them."""
    count = draw(st.integers(1, 6))
    fleet = make_fleet(count)
    for column in fleet.columns.values():
        column[:count] = draw(st.lists(loads, min_size=count, max_size=count))
    request = make_request()
    if draw(st.booleans()):
        # Their vectors are as long as the fleet has rows.
        ttft, tpot, budget = (
            draw(st.lists(of, min_size=fleet.capacity, max_size=fleet.capacity)) for of in (times_ms, times_ms, slos_ms)
        )
        request.data[data_key(LATENCY_PREDICTION)] = prediction(
            ttft, tpot, ttft_slo_ms=draw(slos_ms), tpot_slo_ms=draw(slos_ms), tpot_budget_ms=budget
        )
    if draw(st.booleans()):
        blocks = draw(st.integers(0, 4))
        matched = draw(st.lists(st.integers(0, blocks), min_size=fleet.capacity, max_size=fleet.capacity))
        request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array(matched, dtype=float), blocks, 64)
    return fleet, request


@pytest.mark.parametrize("kind", [LatencyScorer, PredictedLatencyScorer], ids=lambda k: k.type)
@given(situation=situations(), strategy=st.sampled_from(STRATEGIES), weights=st.tuples(shares, shares))
@settings(max_examples=100)
def test_scores_are_one_number_in_range_per_candidate(
    kind: type[Scorer], situation: tuple[Fleet, Request], strategy: str, weights: tuple[float, float]
) -> None:
    fleet, request = situation
    names = ("ttftWeight", "tpotWeight") if kind is LatencyScorer else ("headroomTTFTWeight", "headroomTPOTWeight")
    plugin = make_plugin(kind, fleet, headroomSelectionStrategy=strategy, **dict(zip(names, weights, strict=True)))

    scores = np.asarray(plugin.score(request, fleet.candidates()))

    assert scores.shape == (len(fleet),)
    assert ((scores >= 0) & (scores <= 1)).all()


@given(situation=situations(), explores=shares)
@settings(max_examples=100)
def test_the_tier_keeps_somebody_and_adds_nobody(situation: tuple[Fleet, Request], explores: float) -> None:
    fleet, request = situation

    mask = make_plugin(SloHeadroomTierFilter, fleet, epsilonExploreNeg=explores).keep(request, fleet.candidates())

    assert mask.dtype == np.bool_
    assert mask.shape == (len(fleet),)
    assert mask.any()
