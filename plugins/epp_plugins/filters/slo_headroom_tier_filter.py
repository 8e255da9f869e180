"""slo-headroom-tier-filter: keep the endpoints that are predicted to keep the request's SLOs, if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from epp.api import LATENCY_PREDICTION, Candidates, Filter, Handle, LatencyPrediction, Mask, Request, data_key
from epp_plugins.headroom import headroom_of


class SloHeadroomTierFilter(Filter):
    """Keeps who is predicted to meet every SLO; with probability `epsilonExploreNeg` all the others instead.

    Keeps all where nobody or everybody meets them, where the request asks for none, and without predictions. An endpoint
    without a prediction is one of the others while some have one. Same rule as the Go EPP's slo-headroom-tier-filter, but
    that one takes an SLO which the client did not ask for as missed.
    """

    type = "slo-headroom-tier-filter"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        epsilon_explore_neg: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
        latency_prediction_info_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(LATENCY_PREDICTION, params.latency_prediction_info_producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        prediction: LatencyPrediction | None = request.data.get(self._key)
        everyone: Mask = np.ones(len(candidates), dtype=np.bool_)
        if prediction is None or not (prediction.has_slo or np.isfinite(prediction.tpot_budget_ms).any()):
            return everyone
        headroom = headroom_of(prediction, candidates)
        if headroom is None or not headroom.asked:
            return everyone
        met = headroom.met
        if met.all() or not met.any():
            return everyone
        explores = self.params.epsilon_explore_neg and self.handle.random.random() < self.params.epsilon_explore_neg
        return ~met if explores else met
