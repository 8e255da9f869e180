"""predicted-latency-scorer: the older scorer that filters, rates and chooses at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

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
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class PredictedLatencyScorer(Scorer):
    """Deprecated: use "predicted-latency-producer", filters and "latency-scorer". Scores 1 for one endpoint, 0 for all others.

    Those that hold `affinityGateTauGlobal` of the prompt, if any; of these who meets every SLO, or, with probability
    `epsilonExploreNeg` and where nobody does, who misses one; of these who holds `affinityGateTau`, unless that costs more than
    `affinityMaxTTFTPenaltyMs`. Gates are open with probability `epsilonExploreSticky`. Then one by chance (`linear`) or the
    best (`max`), by headroom or deficit.
    """

    type = "predicted-latency-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        neg_headroom_ttft_weight: Weight = msgspec.field(default=0.8, name="negHeadroomTTFTWeight")
        neg_headroom_tpot_weight: Weight = msgspec.field(default=0.2, name="negHeadroomTPOTWeight")
        headroom_ttft_weight: Weight = msgspec.field(default=0.8, name="headroomTTFTWeight")
        headroom_tpot_weight: Weight = msgspec.field(default=0.2, name="headroomTPOTWeight")
        headroom_selection_strategy: Literal["least", "most", "composite-least", "composite-most", "composite-only"] = (
            "least"
        )
        composite_kv_weight: Weight = msgspec.field(default=1.0, name="compositeKVWeight")
        composite_queue_weight: Weight = 1.0
        composite_prefix_weight: Weight = 1.0
        epsilon_explore_sticky: Share = 0.01
        epsilon_explore_neg: Share = 0.01
        affinity_gate_tau: Share = 0.8
        affinity_gate_tau_global: Share = 0.99
        affinity_max_ttft_penalty_ms: Weight = msgspec.field(default=5000.0, name="affinityMaxTTFTPenaltyMs")
        selection_mode: Literal["linear", "max"] = "linear"
        slo_buffer_factor: Annotated[float, msgspec.Meta(gt=0)] = 1.0
        # What is measured and how is up to the producer: these are accepted, and have no effect.
        sampling_mean: float = 1000.0
        max_sampled_tokens: int = 0
        context_ttl: int = msgspec.field(default=300_000_000_000, name="contextTTL")
        streaming_mode: bool = True
        endpoint_role_label: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._prediction_key = data_key(LATENCY_PREDICTION)
        self._prefix_key = data_key(PREFIX_MATCH)
        self._strategy = params.headroom_selection_strategy

    def consumes(self) -> Sequence[str]:
        return (self._prediction_key, self._prefix_key)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        headroom = None
        if self._strategy != "composite-only":
            headroom = headroom_of(self._buffered(request.data.get(self._prediction_key)), candidates)
        cached = cached_share(candidates, match)
        weights = composite(candidates, cached, self.params)
        if headroom is not None:
            weights = self._weights(headroom, candidates, cached, weights)
        chosen = np.zeros(len(candidates))
        chosen[self._choose(weights)] = 1.0
        return chosen

    def _buffered(self, prediction: LatencyPrediction | None) -> LatencyPrediction | None:
        factor = self.params.slo_buffer_factor
        if prediction is None or factor == 1.0:
            return prediction
        return msgspec.structs.replace(prediction, tpot_budget_ms=prediction.tpot_budget_ms * factor)

    def _weights(self, headroom: Headroom, candidates: Candidates, cached: Floats, by_composite: Floats) -> Floats:
        """How likely each is to be chosen; 0 for those that the gates and tiers leave out."""
        params = self.params
        left = headroom.predicted
        sticky = left & (cached >= params.affinity_gate_tau_global)
        if sticky.any() and not self._happens(params.epsilon_explore_sticky):
            left = sticky
        met = left & headroom.met
        missed = left & ~met
        negative = missed.any() and (not met.any() or self._happens(params.epsilon_explore_neg))
        tier = self._gated(headroom, missed if negative else met, cached)
        if negative:
            idle = tier & (candidates.column(IN_FLIGHT_REQUESTS) == 0)
            return self._by_deficit(headroom, idle if idle.any() else tier)
        if self._strategy.startswith("composite-"):
            return np.where(
                tier, 0.01 + (1.0 - by_composite if self._strategy == "composite-least" else by_composite), 0
            )
        return self._by_headroom(headroom, tier)

    def _gated(self, headroom: Headroom, tier: Mask, cached: Floats) -> Mask:
        """Those of `tier` that hold the prompt, where that does not take much longer than elsewhere."""
        sticky = tier & (cached >= self.params.affinity_gate_tau)
        if not sticky.any() or self._happens(self.params.epsilon_explore_sticky):
            return tier
        ttft_ms = headroom.predicted_ttft_ms
        penalty_ms = ttft_ms[sticky].min() - ttft_ms[tier].min()
        limit_ms = self.params.affinity_max_ttft_penalty_ms
        return tier if limit_ms and penalty_ms > limit_ms else sticky

    def _by_headroom(self, headroom: Headroom, tier: Mask) -> Floats:
        most = self._strategy == "most"
        ttft = from_0_to_1(headroom.ttft_ms[tier], headroom.predicted_ttft_ms[tier], most=most)
        tpot = from_0_to_1(headroom.tpot_ms[tier], headroom.predicted_tpot_ms[tier], most=most)
        combined = _blended(ttft, tpot, self.params.headroom_ttft_weight, self.params.headroom_tpot_weight)
        weights = np.zeros(len(tier))
        weights[tier] = np.floor((combined if most else 1.0 - combined) * 99.0) + 2.0
        return weights

    def _by_deficit(self, headroom: Headroom, tier: Mask) -> Floats:
        """Only what is missing counts: an SLO that is met is missed by 0."""
        ttft_ms, tpot_ms = (np.fmax(-h[tier], 0.0) for h in (headroom.ttft_ms, headroom.tpot_ms))
        ttft, tpot = from_0_to_1(ttft_ms, ttft_ms, most=False), from_0_to_1(tpot_ms, tpot_ms, most=False)
        blended = _blended(ttft, tpot, self.params.neg_headroom_ttft_weight, self.params.neg_headroom_tpot_weight, 0.0)
        weights = np.zeros(len(tier))
        weights[tier] = np.floor((1.0 - blended) * 80.0) + 2.0
        return weights

    def _choose(self, weights: Floats) -> int:
        total = float(weights.sum())
        if self.params.selection_mode == "max" or total <= 0:
            return int(weights.argmax())
        drawn = int(np.searchsorted(weights.cumsum(), self.handle.random.random() * total, side="right"))
        return min(drawn, len(weights) - 1)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self.handle.random.random() < probability


def _blended(ttft: Floats | None, tpot: Floats | None, wt: float, wp: float, equal: float = 0.5) -> Floats:
    """Both by their weights; one in which all are equal counts as `equal` for each."""
    if wt + wp <= 0:
        wt, wp = 1.0, 0.0
    return np.asarray((wt * (equal if ttft is None else ttft) + wp * (equal if tpot is None else tpot)) / (wt + wp))
