"""An endpoint as a source of endpoints (flag, file, Kubernetes) describes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from epp.api import Endpoint

Key: TypeAlias = tuple[str, str]  # namespace, name


class EndpointSpec(msgspec.Struct, frozen=True):
    """What is wanted of one endpoint. Its identity is (namespace, name)."""

    name: str
    address: str  # an IP address
    port: int
    namespace: str = "default"
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    pod_name: str = ""  # "": same as the name
    metrics_host_port: str = ""  # "": same as address and port
    node_address: str = ""  # "": it is not known where it runs

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    def build(self) -> Endpoint:
        """A new endpoint. Raises ConfigError for an address or a port that cannot be."""
        return Endpoint(
            self.name,
            self.address,
            self.port,
            namespace=self.namespace,
            labels=self.labels,
            pod_name=self.pod_name,
            metrics_host_port=self.metrics_host_port,
            node_address=self.node_address,
        )
