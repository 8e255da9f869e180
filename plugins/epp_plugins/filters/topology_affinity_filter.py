"""topology-affinity-filter: endpoints near enough to that of an earlier stage."""

from __future__ import annotations

from typing import Literal

import msgspec

from epp.api import PEER_ENDPOINT, Candidates, Endpoint, Filter, Handle, Request
from epp_plugins.topology import Level, shared_level


class TopologyAffinityFilter(Filter):
    """Keeps endpoints that share at least `minAffinity` with the peer endpoint; all without a peer, and all if none does.

    Reads the endpoints' labels (see `topology`); `topologyProducerName` is accepted and makes no difference. Same rule as the
    Go EPP's topology-affinity-filter.
    """

    type = "topology-affinity-filter"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        min_affinity: Literal["host", "rack", "zone", "region"] = "host"
        topology_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._least = Level[params.min_affinity.upper()]

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        peer: Endpoint | None = request.data.get(PEER_ENDPOINT)
        kept = [peer is None or shared_level(peer, endpoint) >= self._least for endpoint in candidates]
        return kept if any(kept) else [True] * len(kept)
