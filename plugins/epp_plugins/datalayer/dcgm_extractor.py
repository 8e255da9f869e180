"""dcgm-extractor: how busy the GPUs of each server are."""

from __future__ import annotations

from typing import Any, Final

from epp.api import Endpoint, Extractor, Handle, Scanner, distinct
from epp_plugins.attributes import attribute_key

_FAMILY: Final = "DCGM_FI_DEV_GPU_UTIL"
ATTRIBUTE: Final = "GPUUtilization"


class DcgmExtractor(Extractor):
    """Keeps the busiest GPU's DCGM_FI_DEV_GPU_UTIL / 100 as the endpoint attribute `GPUUtilization` (0 to 1).

    Of samples with a label `pod` only those of the endpoint's pod count. Same rule as the Go EPP's dcgm-extractor; plugins
    read it with `producer: dcgm-extractor`.
    """

    type = "dcgm-extractor"
    experimental = True

    def __init__(self, params: Any, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = attribute_key(ATTRIBUTE, handle.name, parameter="name")
        self._scanner = Scanner([_FAMILY])

    def extract(self, endpoint: Endpoint, body: bytes) -> None:
        series = distinct(self._scanner.scan(body).get(_FAMILY) or [])
        names = ("", endpoint.pod_name, endpoint.name)
        percents = [value for labels, value in series or () if labels.get("pod", "") in names]
        if not percents:
            raise ValueError(f"there is no {_FAMILY} that can be read for pod {endpoint.pod_name!r}")
        endpoint.attributes[self._key] = min(max(*percents, 0.0) / 100.0, 1.0)

    def forget(self, endpoint: Endpoint) -> None:
        endpoint.attributes.pop(self._key, None)
