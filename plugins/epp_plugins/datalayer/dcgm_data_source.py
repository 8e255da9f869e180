"""dcgm-data-source: how the pages of NVIDIA's DCGM exporters are fetched."""

from __future__ import annotations

from epp.api import ConfigError, Handle
from epp_plugins.datalayer.fetching import HttpDataSource, HttpParams, Port


class DcgmDataSource(HttpDataSource):
    """Gets the page of the exporter beside every endpoint: the endpoint's address, `port` 9400.

    Parameters as those of metrics-data-source and of the Go EPP's dcgm-data-source. `useNodeAddress` needs the addresses of
    Kubernetes' nodes, which are not known here.
    """

    type = "dcgm-data-source"
    experimental = True

    class Params(HttpParams, frozen=True, forbid_unknown_fields=True, rename="camel"):
        port: Port = 9400
        interval: str = "1s"
        use_node_address: bool = False

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if params.use_node_address:
            raise ConfigError(
                "useNodeAddress: the addresses of nodes are not known; run the exporter beside the server"
            )
