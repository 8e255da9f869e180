"""multicluster-metrics-extractor: how busy each cluster is."""

from __future__ import annotations

from typing import Any, Final

from epp.api import Endpoint, Extractor, Handle, Scanner, distinct
from epp_plugins.scorers.multicluster_kv_cache_utilization_scorer import KV_CACHE_UTILIZATION
from epp_plugins.scorers.multicluster_queue_scorer import QUEUE_SIZE

_ATTRIBUTES: Final = {
    "llm_d_epp_average_kv_cache_utilization": KV_CACHE_UTILIZATION,
    "llm_d_epp_average_queue_size": QUEUE_SIZE,
}


class MulticlusterMetricsExtractor(Extractor):
    """Keeps an EPP's averages over its pool as attributes of the cluster's endpoint, for the multicluster scorers.

    Reads `llm_d_epp_average_kv_cache_utilization` (0 to 1) and `llm_d_epp_average_queue_size`; what the page does not say is
    not known any more. Same metrics as the Go EPP's multicluster-metrics-extractor.
    """

    type = "multicluster-metrics-extractor"
    experimental = True

    def __init__(self, params: Any, handle: Handle) -> None:
        super().__init__(params, handle)
        self._scanner = Scanner(_ATTRIBUTES)

    def extract(self, endpoint: Endpoint, body: bytes) -> None:
        found = self._scanner.scan(body)
        read = False
        for family, attribute in _ATTRIBUTES.items():
            series = distinct(found.get(family) or [])
            if series and series[0][1] >= 0:
                endpoint.attributes[attribute] = series[0][1]
                read = True
            else:
                endpoint.attributes.pop(attribute, None)
        if not read:
            raise ValueError(f"the page has none of {', '.join(_ATTRIBUTES)}")

    def forget(self, endpoint: Endpoint) -> None:
        for attribute in _ATTRIBUTES.values():
            endpoint.attributes.pop(attribute, None)
