"""latency-scorer: prefer endpoints that are predicted to keep the request's SLOs, or to be quickest where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, cast

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_REQUESTS,
    LATENCY_PREDICTION,
    PREFIX_MATCH,
    Candidates,
    Floats,
    Handle,
    LatencyPrediction,
    Mask,
    PrefixMatch,
    Request,
    Scorer,
    data_key,
)
from epp_plugins.composite import cached_share, composite
from epp_plugins.headroom import Headroom, from_0_to_1, headroom_of

Weight = Annotated[float, msgspec.Meta(ge=0)]


class LatencyScorer(Scorer):
    """Scores who meets every SLO, nearest to the SLO first (`least`) or farthest from it (`most`); nobody else.

    Headroom, SLO - prediction, is spread over 0 to 1 for TTFT and TPOT, and the two are weighted. Without an SLO the lower
    prediction is the better one. If nobody meets them: the idle ones, else those that miss TPOT alone, TTFT alone, both; least
    deficit first. With `composite-least` and `composite-most` a composite of free KV cache, short queue and cached prompt
    decides among those that meet them, with `composite-only` always, and without predictions in any case. An endpoint without
    a prediction scores 0 while others have one. Otherwise the same rule as the Go EPP's latency-scorer.
    """

    type = "latency-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        ttft_weight: Weight = 0.8
        tpot_weight: Weight = 0.2
        headroom_selection_strategy: Literal["least", "most", "composite-least", "composite-most", "composite-only"] = (
            "least"
        )
        composite_kv_weight: Weight = msgspec.field(default=1.0, name="compositeKVWeight")
        composite_queue_weight: Weight = 1.0
        composite_prefix_weight: Weight = 1.0
        latency_prediction_info_producer_name: str = ""
        prefix_match_info_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._prediction_key = data_key(LATENCY_PREDICTION, params.latency_prediction_info_producer_name)
        self._prefix_key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        weights = params.ttft_weight + params.tpot_weight
        self._ttft_share = params.ttft_weight / weights if weights else 1.0
        self._strategy = params.headroom_selection_strategy

    def consumes(self) -> Sequence[str]:
        return (self._prediction_key, self._prefix_key)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        prediction: LatencyPrediction | None = request.data.get(self._prediction_key)
        headroom = None if self._strategy == "composite-only" else headroom_of(prediction, candidates)
        if headroom is None:
            return self._composite(request, candidates)
        met = headroom.met
        if met.any() and self._strategy.startswith("composite-"):
            scores = self._composite(request, candidates)
            return np.where(met, 1.0 - scores if self._strategy == "composite-least" else scores, 0.0)
        if met.any():
            return self._spread(headroom, met, most=self._strategy == "most")
        return self._spread(headroom, _best_of_the_missing(headroom, candidates), most=False)

    def _spread(self, headroom: Headroom, cohort: Mask, *, most: bool) -> Floats:
        """Scores within `cohort`, in hundredths from 0.01; 0 for the others."""
        ttft = from_0_to_1(headroom.ttft_ms[cohort], headroom.predicted_ttft_ms[cohort], most=most)
        tpot = from_0_to_1(headroom.tpot_ms[cohort], headroom.predicted_tpot_ms[cohort], most=most)
        if ttft is None and tpot is None:
            combined: Floats = np.full(int(cohort.sum()), 0.5)
        elif ttft is not None and tpot is not None:
            combined = self._ttft_share * ttft + (1.0 - self._ttft_share) * tpot
        else:
            combined = ttft if ttft is not None else cast("Floats", tpot)
        good = combined if most else 1.0 - combined
        scores = np.zeros(len(cohort))
        scores[cohort] = np.minimum((np.floor(good * 100.0) + 1.0) / 100.0, 1.0)
        return scores

    def _composite(self, request: Request, candidates: Candidates) -> Floats:
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        return composite(candidates, cached_share(candidates, match), self.params)


def _best_of_the_missing(headroom: Headroom, candidates: Candidates) -> Mask:
    """Of those that are predicted to miss an SLO, the ones to choose from."""
    idle: Mask = headroom.predicted & (candidates.column(IN_FLIGHT_REQUESTS) == 0)
    if idle.any():
        return idle
    in_time = headroom.ttft_ms >= 0.0
    for cohort in (headroom.predicted & in_time, headroom.predicted & (headroom.tpot_ms >= 0.0)):
        if cohort.any():
            return cohort
    return headroom.predicted
