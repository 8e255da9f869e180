"""topology-affinity-scorer: the nearer to the endpoint of an earlier stage, the better."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from epp.api import PEER_ENDPOINT, Candidates, Endpoint, Floats, Request, Scorer
from epp_plugins.topology import Level, shared_level

_SCORES: Final = {Level.HOST: 1.0, Level.RACK: 0.2, Level.ZONE: 0.05, Level.REGION: 0.02, Level.NONE: 0.0}


class TopologyAffinityScorer(Scorer):
    """1 for the same host as the peer endpoint, 0.2 rack, 0.05 zone, 0.02 region, else 0; without a peer 0 for all.

    Reads the endpoints' labels (see `topology`); `topologyProducerName` is accepted and makes no difference. Same rule as the
    Go EPP's topology-affinity-scorer.
    """

    type = "topology-affinity-scorer"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        topology_producer_name: str = ""

    def score(self, request: Request, candidates: Candidates) -> Floats:
        peer: Endpoint | None = request.data.get(PEER_ENDPOINT)
        if peer is None:
            return np.zeros(len(candidates))
        return np.array([_SCORES[shared_level(peer, endpoint)] for endpoint in candidates], dtype=np.float64)
