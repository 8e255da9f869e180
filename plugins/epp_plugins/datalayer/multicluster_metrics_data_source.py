"""multicluster-metrics-data-source: how the metrics of the pickers of other clusters are fetched."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from epp.api import Fetch
from epp_plugins.datalayer.fetching import HttpDataSource, HttpParams

MAX_PAGE_BYTES: Final = 8 << 20


class MulticlusterMetricsDataSource(HttpDataSource):
    """Gets the metrics page of every cluster's EPP, over TLS that is verified unless `insecureSkipVerify` says otherwise.

    The page is at the address in the endpoint's label `metricsAddress` and the port in `metricsPort`, where it has them. At
    most 8 MiB are read. Parameters as those of metrics-data-source and of the Go EPP's source of this name.
    """

    type = "multicluster-metrics-data-source"
    experimental = True

    class Params(HttpParams, frozen=True, forbid_unknown_fields=True, rename="camel"):
        scheme: Literal["http", "https"] = "https"
        insecure_skip_verify: bool = False
        interval: str = "1s"

    def fetch(self) -> Fetch:
        return msgspec.structs.replace(
            super().fetch(), max_body_bytes=MAX_PAGE_BYTES, address_label="metricsAddress", port_label="metricsPort"
        )
