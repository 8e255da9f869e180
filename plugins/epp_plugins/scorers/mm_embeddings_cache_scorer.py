"""mm-embeddings-cache-scorer: prefer endpoints that hold a request's images, videos and audios encoded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from epp.api import ENCODER_MATCH, Candidates, EncoderMatch, Floats, Handle, Request, Scorer, data_key


class MmEmbeddingsCacheScorer(Scorer):
    """Size of the media held / size of all; 0 without media or data. Same rule as the Go EPP's mm-embeddings-cache-scorer."""

    type = "mm-embeddings-cache-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(ENCODER_MATCH, params.producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        match: EncoderMatch | None = request.data.get(self._key)
        if match is None or not match.total_size:
            return np.zeros(len(candidates))
        scores: Floats = match.matched_size[candidates.rows] / match.total_size
        return scores
