"""no-hit-lru-scorer: spread prompts that nobody has cached over the endpoints that got such a prompt longest ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from epp.api import (
    PREFIX_MATCH,
    Candidates,
    Endpoint,
    EndpointListener,
    Floats,
    Handle,
    PrefixMatch,
    PreRequest,
    Request,
    SchedulingResult,
    Scorer,
    data_key,
    deprecated,
)


class NoHitLruScorer(Scorer, PreRequest, EndpointListener):
    """0.5 for all when any candidate has a part of the prompt; else 1 - rank / (n - 1), one candidate alone 1.

    Ranks: endpoints that never got a cold prompt first, in candidate order, then the others, the longest ago first. Every
    profile's first endpoint counts as having got it. Ranks are among the candidates only, where the Go EPP's
    no-hit-lru-scorer also counts endpoints that are gone. `prefixPluginType` and `prefixPluginName` are accepted and ignored.
    """

    type = "no-hit-lru-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        lru_size: Annotated[int, msgspec.Meta(gt=0)] = 1024  # endpoints
        prefix_match_info_producer_name: str = ""
        prefix_plugin_type: Annotated[str, deprecated("it has no effect")] = ""
        prefix_plugin_name: Annotated[str, deprecated("it has no effect, use prefixMatchInfoProducerName")] = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        self._used: OrderedDict[Endpoint, None] = OrderedDict()  # the longest ago first

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        count = len(candidates)
        match: PrefixMatch | None = request.data.get(self._key)
        if match is not None and match.matched_blocks[candidates.rows].any():
            return np.full(count, 0.5)
        request.state[self] = True
        if count < 2:
            return np.ones(count)
        age = {endpoint: i for i, endpoint in enumerate(self._used)}
        order = np.argsort([age.get(endpoint, -1) for endpoint in candidates], kind="stable")
        scores = np.empty(count)
        scores[order] = 1.0 - np.arange(count) / (count - 1)
        return scores

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        if not request.state.pop(self, False):
            return
        for chosen in result.profiles.values():
            if chosen is not None and chosen.endpoints[0].alive:
                self._used[chosen.endpoints[0]] = None
                self._used.move_to_end(chosen.endpoints[0])
        while len(self._used) > self.params.lru_size:
            self._used.popitem(last=False)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._used.pop(endpoint, None)
