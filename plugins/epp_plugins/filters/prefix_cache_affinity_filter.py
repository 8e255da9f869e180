"""prefix-cache-affinity-filter: stay where the prompt is cached, unless the wait there is too long."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_TOKENS,
    LATENCY_PREDICTION,
    PREFIX_MATCH,
    Candidates,
    Filter,
    Floats,
    Handle,
    LatencyPrediction,
    Mask,
    PrefixMatch,
    Request,
    data_key,
)

_NO_PREDICTION_MS: Final = sys.float_info.max


class PrefixCacheAffinityFilter(Filter):
    """Keeps the endpoints that hold at least `affinityThreshold` of the prompt's blocks, if there are any.

    Keeps all instead with `explorationProbability`, and when the best time to first token among those exceeds the best among
    the others by more than `maxTTFTPenaltyMs` (0: never). That time is in-flight tokens / `peakPrefillThroughput` (tokens
    per second), or the latency predictor's with `ttftSource: latencyPredictor`, where a missing prediction is the worst one.
    Same rule as the Go EPP's prefix-cache-affinity-filter.
    """

    type = "prefix-cache-affinity-filter"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        affinity_threshold: Annotated[float, msgspec.Meta(le=1)] = 0.8  # 0 and less: the filter is off
        exploration_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
        max_ttft_penalty_ms: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(
            default=18000.0, name="maxTTFTPenaltyMs"
        )
        ttft_source: Literal["prefillThroughput", "latencyPredictor"] = "prefillThroughput"
        peak_prefill_throughput: Annotated[float, msgspec.Meta(gt=0)] = 15928.0
        prefix_match_info_producer_name: str = ""
        in_flight_load_producer_name: str = ""
        latency_prediction_info_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._prefix_key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        self._predicts = params.ttft_source == "latencyPredictor"
        if self._predicts:
            self._load_key = data_key(LATENCY_PREDICTION, params.latency_prediction_info_producer_name)
        else:
            self._load_key = data_key(IN_FLIGHT_LOAD, params.in_flight_load_producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._prefix_key, self._load_key)

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        everyone: Mask = np.ones(len(candidates), dtype=np.bool_)
        params = self.params
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        if len(candidates) < 2 or params.affinity_threshold <= 0 or match is None or not match.total_blocks:
            return everyone
        if params.exploration_probability and self.handle.random.random() < params.exploration_probability:
            return everyone
        sticky: Mask = match.matched_blocks[candidates.rows] / match.total_blocks >= params.affinity_threshold
        if sticky.all() or not sticky.any():
            return everyone
        if params.max_ttft_penalty_ms:
            ttft_ms = self._ttft_ms(request, candidates)
            if ttft_ms[sticky].min() > ttft_ms[~sticky].min() + params.max_ttft_penalty_ms:
                return everyone
        return sticky

    def _ttft_ms(self, request: Request, candidates: Candidates) -> Floats:
        if not self._predicts:
            in_flight_ms: Floats = candidates.column(IN_FLIGHT_TOKENS) * (1000.0 / self.params.peak_prefill_throughput)
            return in_flight_ms
        prediction: LatencyPrediction | None = request.data.get(self._load_key)
        if prediction is None:
            return np.full(len(candidates), _NO_PREDICTION_MS)
        return np.fmin(prediction.ttft_ms[candidates.rows], _NO_PREDICTION_MS)
