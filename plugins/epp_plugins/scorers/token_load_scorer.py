"""token-load-scorer: the fewest tokens in flight, this request's own included, are best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_TOKENS,
    Candidates,
    Floats,
    Handle,
    InFlightLoad,
    Request,
    Scorer,
    data_key,
)
from epp_plugins.scores import within_unit


class TokenLoadScorer(Scorer):
    """1 - min(load, T) / T; load is the tokens in flight plus the tokens of this request not cached there.

    Reads in_flight_tokens and the request's InFlightLoad. Same rule as the Go EPP's token-load-scorer.
    """

    type = "token-load-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        queue_threshold_tokens: Annotated[int, msgspec.Meta(gt=0)] = 4_194_304
        in_flight_load_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._threshold = float(params.queue_threshold_tokens)
        self._key = data_key(IN_FLIGHT_LOAD, params.in_flight_load_producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        load = candidates.column(IN_FLIGHT_TOKENS)
        own: InFlightLoad | None = request.data.get(self._key)
        if own is not None:
            load += own.uncached_tokens[candidates.rows]
        return within_unit(1.0 - np.fmin(load, self._threshold) / self._threshold)
