"""probabilistic-admitter: refuse more and more of the sheddable requests as the servers fill up."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np

from epp.api import KV_CACHE_USAGE, WAITING_REQUESTS, Admitter, Candidates, Code, Handle, Request, RequestError, headers


class ProbabilisticAdmitter(Admitter):
    """Refuses a request of negative priority with probability min(1, k * s^power).

    s is the mean over the candidates of max(queue / `queueDepthThreshold`, KV usage / `kvCacheUtilThreshold`); a value that is
    missing or unknown counts as 0. Same rule as the Go EPP's probabilistic-admitter, whose refusals reach the
    client as status 500; here they are a 429 with the reason `rejected-saturated` and, unless `retryAfterSeconds` is 0, a
    Retry-After header.
    """

    type = "probabilistic-admitter"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        queue_depth_threshold: Annotated[float, msgspec.Meta(gt=0)] = 5.0  # requests
        kv_cache_util_threshold: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
        power: Annotated[float, msgspec.Meta(gt=0)] = 5.0
        k: Annotated[float, msgspec.Meta(ge=0)] = 300.0
        retry_after_seconds: Annotated[int, msgspec.Meta(ge=0)] = 1

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._reply = {headers.DROPPED_REASON: "rejected-saturated"}
        if params.retry_after_seconds:
            self._reply["retry-after"] = str(params.retry_after_seconds)

    def admit(self, request: Request, candidates: Candidates) -> None:
        if request.priority >= 0 or not len(candidates):
            return
        if self.handle.random.random() < self._refusal_probability(candidates):
            raise RequestError(
                Code.RESOURCE_EXHAUSTED, "system saturated, sheddable request dropped", headers=self._reply
            )

    def _refusal_probability(self, candidates: Candidates) -> float:
        queue = candidates.column(WAITING_REQUESTS) / self.params.queue_depth_threshold
        usage = candidates.column(KV_CACHE_USAGE) / self.params.kv_cache_util_threshold
        # Whatever a metrics page says, one server's load is a number, and far too much is enough.
        load = np.nan_to_num(np.fmax(queue, usage), nan=0.0, posinf=1e6, neginf=0.0).clip(0.0, 1e6)
        mean = load.mean().item()
        if not mean or not self.params.k:
            return 0.0
        # By logarithms: the power itself may be more than a float holds.
        return math.exp(min(0.0, math.log(self.params.k) + self.params.power * math.log(mean)))
