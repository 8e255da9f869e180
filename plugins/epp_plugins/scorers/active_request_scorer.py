"""active-request-scorer: the fewest requests in flight are best, idle endpoints above all."""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec
import numpy as np

from epp.api import IN_FLIGHT_REQUESTS, Candidates, Floats, Handle, Request, Scorer, deprecated

_LESS_THAN_ONE_REQUEST: Final = 1e-9


class ActiveRequestScorer(Scorer):
    """1 up to `idleThreshold` requests, else (max - c) / max * `maxBusyScore`, max being the busiest candidate's count.

    Reads in_flight_requests, which is kept in every configuration: `inFlightLoadProducerName` is accepted and makes no
    difference. `requestTimeout` is accepted and ignored. Same rule as the Go EPP's active-request-scorer.
    """

    type = "active-request-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        idle_threshold: Annotated[int, msgspec.Meta(ge=0)] = 0  # requests
        max_busy_score: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
        in_flight_load_producer_name: str = ""
        request_timeout: Annotated[str, deprecated("it has no effect")] = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        # Never 0: of the least floats the reciprocal is infinite, and 0 times that is no score.
        self._idle = max(float(params.idle_threshold), _LESS_THAN_ONE_REQUEST)
        self._max_busy_score = params.max_busy_score

    def score(self, request: Request, candidates: Candidates) -> Floats:
        if not len(candidates):
            return np.zeros(0)
        counts = candidates.column(IN_FLIGHT_REQUESTS)
        busiest = counts.item(counts.argmax())
        if busiest <= self._idle:
            return np.ones(len(counts))
        if not busiest < math.inf:
            counts = np.nan_to_num(counts, nan=1e15, posinf=1e15, neginf=0.0)
            busiest = counts.item(counts.argmax())
        scores: Floats = (busiest - counts) * (self._max_busy_score / busiest)
        scores[counts <= self._idle] = 1.0
        return scores
