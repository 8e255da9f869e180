"""prefix-cache-scorer: prefer endpoints that hold the beginning of the prompt in their cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from epp.api import PREFIX_MATCH, Candidates, Floats, Handle, PrefixMatch, Request, Scorer, data_key


class PrefixCacheScorer(Scorer):
    """w * min(1, matched tokens / scale)^2 + (1 - w) * matched blocks / all blocks, w being `matchLengthWeight`.

    0 without data or for a prompt shorter than one block. Same rule as the Go EPP's prefix-cache-scorer.
    """

    type = "prefix-cache-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        prefix_match_info_producer_name: str = ""
        match_length_weight: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
        match_length_scale_tokens: Annotated[int, msgspec.Meta(gt=0)] = 8192

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        self._length_weight = params.match_length_weight
        self._scale_tokens = float(params.match_length_scale_tokens)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        match: PrefixMatch | None = request.data.get(self._key)
        if match is None or not match.total_blocks:
            return np.zeros(len(candidates))
        matched = match.matched_blocks[candidates.rows]
        share: Floats = matched / match.total_blocks
        weight = self._length_weight
        if not weight:
            return share
        length = np.minimum(matched * (match.block_size_tokens / self._scale_tokens), 1.0)
        scores: Floats = weight * length * length + (1.0 - weight) * share
        return scores
