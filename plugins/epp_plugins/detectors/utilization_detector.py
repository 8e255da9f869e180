"""utilization-detector: saturation from the model servers' queues and KV caches."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from epp.api import (
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    WAITING_REQUESTS,
    Candidates,
    ConfigError,
    Filter,
    Handle,
    Mask,
    Request,
    SaturationDetector,
)
from epp_plugins.durations import seconds


class UtilizationDetector(SaturationDetector, Filter):
    """Saturation: the mean over endpoints of max(queue / queueDepthThreshold, usage / kvCacheUtilThreshold).

    An endpoint whose metrics are older than `metricsStalenessThreshold`, or unreadable, counts as 1. As a filter it keeps
    endpoints with fresh metrics whose queue and usage are both below threshold * (1 + headroom); all when that is none.
    Reads waiting_requests (requests), kv_cache_usage (fraction), metrics_updated_s. Same rules as the Go EPP's.
    """

    type = "utilization-detector"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        queue_depth_threshold: Annotated[int, msgspec.Meta(gt=0)] = 5  # requests
        kv_cache_util_threshold: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
        metrics_staleness_threshold: str = "200ms"
        headroom: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._queue = float(params.queue_depth_threshold)
        self._usage = params.kv_cache_util_threshold
        self.stale_after_s = seconds(params.metrics_staleness_threshold, parameter="metricsStalenessThreshold")
        if not self.stale_after_s:
            raise ConfigError("metricsStalenessThreshold: must be more than 0, or every endpoint counts as full")

    def saturation(self, candidates: Candidates) -> float:
        if not len(candidates):
            return 1.0
        queue = candidates.column(WAITING_REQUESTS) / self._queue
        usage = candidates.column(KV_CACHE_USAGE) / self._usage
        load = np.maximum(np.maximum(queue, usage), 0.0)
        load[~(self._fresh(candidates) & np.isfinite(load))] = 1.0
        return float(load.mean())

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        limit = 1.0 + self.params.headroom
        roomy = candidates.column(WAITING_REQUESTS) < self._queue * limit
        roomy &= candidates.column(KV_CACHE_USAGE) < self._usage * limit
        roomy &= self._fresh(candidates)
        return roomy if roomy.any() else np.ones(len(candidates), dtype=np.bool_)

    def _fresh(self, candidates: Candidates) -> Mask:
        fresh: Mask = candidates.column(METRICS_UPDATED_S) >= self.handle.clock() - self.stale_after_s
        return fresh
