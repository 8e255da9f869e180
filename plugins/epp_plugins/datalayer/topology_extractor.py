"""topology-extractor: where each server stands."""

from __future__ import annotations

import msgspec

from epp.api import Endpoint, EndpointListener
from epp_plugins.topology import LABELS, TOPOLOGY, Topology


class TopologyExtractor(EndpointListener):
    """Keeps an endpoint's host, rack, zone and region, as labels tell them, as its attribute `Topology`.

    The topology plugins read it, and the usual labels where it is not there. The parameters name the labels; an empty one
    means that there is none. Works as the Go EPP's topology-extractor.
    """

    type = "topology-extractor"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        hostname: str = LABELS[0]
        rack: str = LABELS[1]
        zone: str = LABELS[2]
        region: str = LABELS[3]

    def endpoint_added(self, endpoint: Endpoint) -> None:
        params = self.params
        endpoint.attributes[TOPOLOGY] = Topology(endpoint, (params.hostname, params.rack, params.zone, params.region))

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        endpoint.attributes.pop(TOPOLOGY, None)
