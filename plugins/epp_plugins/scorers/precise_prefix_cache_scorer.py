"""precise-prefix-cache-scorer: prefer endpoints that hold the beginning of the prompt, as their engines tell. Deprecated."""

from __future__ import annotations

import numpy as np

from epp.api import PREFIX_MATCH, Candidates, Floats, Handle, PrefixMatch, Request, Scorer, data_key
from epp_plugins.producers.precise_prefix_cache_producer import PrecisePrefixCacheProducer


class PrecisePrefixCacheScorer(PrecisePrefixCacheProducer, Scorer):
    """precise-prefix-cache-producer, with its parameters, and prefix-cache-scorer over it, in one: matched / all blocks.

    Deprecated by the Go EPP: use the two.
    """

    type = "precise-prefix-cache-scorer"

    class Params(PrecisePrefixCacheProducer.Params, frozen=True):
        """Those of the producer."""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._own_key = data_key(PREFIX_MATCH, handle.name)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        match: PrefixMatch | None = request.data.get(self._own_key)
        if match is None or not match.total_blocks:
            return np.zeros(len(candidates))
        share: Floats = match.matched_blocks[candidates.rows] / match.total_blocks
        return share
