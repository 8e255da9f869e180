"""p2p-source-producer: from whom the server that reads the prompt may fetch what it has not cached."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from epp.api import (
    PREFIX_MATCH,
    WAITING_REQUESTS,
    Endpoint,
    Handle,
    PrefixMatch,
    PreRequest,
    Request,
    SchedulingResult,
    data_key,
    headers,
)
from epp_plugins.stage_headers import set_header


class P2pSourceProducer(PreRequest):
    """Sets x-kv-cache-source-host-port to an endpoint that holds more of the prompt than the one that reads it.

    The reader is the first endpoint of profile `prefillProfileName` where that has run, else the destination. Sources are the
    candidates within one block of the most cached, ahead of the reader by `minCachedTokenDelta` tokens; of several one is
    drawn with weight 1 / (1 + waiting requests), always the same for one request id. What the client sent in that header is
    overwritten. Same rule as the Go EPP's p2p-source-producer.
    """

    type = "p2p-source-producer"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        prefix_match_info_producer_name: str = ""
        min_cached_token_delta: Annotated[int, msgspec.Meta(ge=1)] = 1
        prefill_profile_name: str = "prefill"

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        prefill = result.profiles.get(self.params.prefill_profile_name)
        reader = prefill.endpoints[0] if prefill is not None and prefill.endpoints else result.target
        source = self._source(request, reader)
        set_header(request, headers.KV_CACHE_SOURCE, source.host_port if source is not None else "")

    def _source(self, request: Request, reader: Endpoint) -> Endpoint | None:
        match: PrefixMatch | None = request.data.get(self._key)
        candidates = request.candidates
        if match is None or candidates is None or not len(candidates):
            return None
        blocks = match.held_blocks[candidates.rows]
        ahead_tokens = (blocks - match.held_blocks.item(reader.row)) * match.block_size_tokens
        fit = (blocks >= blocks.max() - 1) & (ahead_tokens >= self.params.min_cached_token_delta)
        places = np.flatnonzero(fit)
        if not len(places):
            return None
        waiting = np.nan_to_num(candidates.column(WAITING_REQUESTS)[places], nan=1e15, posinf=1e15).clip(0.0, 1e15)
        weights = 1.0 / (1.0 + waiting)
        chosen = random.Random(request.id).choices(places.tolist(), weights.tolist())[0]
        return candidates.endpoints[chosen]
