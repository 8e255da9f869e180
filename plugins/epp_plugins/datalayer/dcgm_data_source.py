"""dcgm-data-source: how the pages of NVIDIA's DCGM exporters are fetched."""

from __future__ import annotations

import msgspec

from epp.api import Fetch
from epp_plugins.datalayer.fetching import HttpDataSource, HttpParams, Port


class DcgmDataSource(HttpDataSource):
    """Gets the page of the exporter beside every endpoint: `port` 9400 of the endpoint's address, or with `useNodeAddress` of
    the node's that its Pod runs on (a DaemonSet of exporters with host ports).

    Parameters as those of metrics-data-source and of the Go EPP's dcgm-data-source. Without Kubernetes no nodes are known, and
    the endpoint's address is used.
    """

    type = "dcgm-data-source"
    experimental = True

    class Params(HttpParams, frozen=True, forbid_unknown_fields=True, rename="camel"):
        port: Port = 9400
        interval: str = "1s"
        use_node_address: bool = False

    def fetch(self) -> Fetch:
        return msgspec.structs.replace(super().fetch(), use_node_address=self.params.use_node_address)
