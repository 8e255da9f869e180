"""concurrency-detector: saturation from what this picker has in flight, without waiting for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_REQUESTS,
    IN_FLIGHT_TOKENS,
    Candidates,
    Filter,
    Floats,
    Handle,
    Mask,
    Request,
    SaturationDetector,
    data_key,
)


class ConcurrencyDetector(SaturationDetector, Filter):
    """Saturation: all in flight / all capacity, in requests or tokens; `hybrid`: the mean of each endpoint's larger ratio.

    As a filter it keeps endpoints below capacity * (1 + headroom), in both units when `hybrid`, and may keep none. Reads
    in_flight_requests and in_flight_tokens. Same rules as the Go EPP's concurrency-detector.
    """

    type = "concurrency-detector"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        max_concurrency: Annotated[int, msgspec.Meta(gt=0)] = 100  # requests for each endpoint
        max_token_concurrency: Annotated[int, msgspec.Meta(gt=0)] = 1_000_000  # tokens for each endpoint
        headroom: Annotated[float, msgspec.Meta(ge=0)] = 0.0
        concurrency_mode: Literal["requests", "tokens", "hybrid"] = "requests"
        in_flight_load_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._mode = params.concurrency_mode
        self._requests = float(params.max_concurrency)
        self._tokens = float(params.max_token_concurrency)
        self._key = data_key(IN_FLIGHT_LOAD, params.in_flight_load_producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def saturation(self, candidates: Candidates) -> float:
        if not len(candidates):
            return 1.0
        # Every endpoint has the same capacity, so the ratio of sums is the mean of ratios.
        return float(self._load(candidates).mean())

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        roomy: Mask = self._load(candidates) < 1.0 + self.params.headroom
        return roomy

    def _load(self, candidates: Candidates) -> Floats:
        requests: Floats = candidates.column(IN_FLIGHT_REQUESTS) / self._requests
        if self._mode == "requests":
            return requests
        tokens: Floats = candidates.column(IN_FLIGHT_TOKENS) / self._tokens
        return tokens if self._mode == "tokens" else np.maximum(requests, tokens)
