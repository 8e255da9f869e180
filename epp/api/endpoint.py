"""One address of a model server, as plugins see it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from epp.api.errors import ConfigError

_NO_NAMES: frozenset[str] = frozenset()


def host_port(address: str, port: int) -> str:
    """`ip:port`, with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def check_path(path: str) -> None:
    """Raises ConfigError for a path that cannot stand in a request line."""
    if not path or not path.isascii() or not path.isprintable() or " " in path:
        raise ConfigError(f"{path!r} cannot be the path of a request")


class Endpoint:
    """One (address, port) of a model server. Identity is the object: an endpoint that goes and comes back is another one.

    `row` is its row in the fleet's columns for as long as `alive` is true. Numbers that change (queue, KV usage, in-flight
    counts) live in those columns; what is not a number lives here: `lora_active` and `lora_waiting` (adapter names),
    `attributes` (whatever a data source puts there, by name). `node_address` is that of the machine, "" where it is not known.
    """

    __slots__ = (
        "address",
        "alive",
        "attributes",
        "host_port",
        "labels",
        "lora_active",
        "lora_waiting",
        "metrics_host_port",
        "name",
        "namespace",
        "node_address",
        "pod_name",
        "port",
        "row",
    )

    def __init__(
        self,
        name: str,
        address: str,
        port: int,
        *,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        pod_name: str = "",
        metrics_host_port: str = "",
        node_address: str = "",
    ) -> None:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ConfigError(f"endpoint {name!r}: address {address!r} is not an IP address") from None
        if not 1 <= port <= 65535:
            raise ConfigError(f"endpoint {name!r}: port {port} is not in 1..65535")
        self.name = name
        self.namespace = namespace
        self.address = address
        self.port = port
        self.labels: Mapping[str, str] = dict(labels or {})
        self.pod_name = pod_name or name
        self.host_port = host_port(address, port)
        self.metrics_host_port = metrics_host_port or self.host_port
        self.node_address = node_address
        self.row = -1
        self.alive = False
        self.lora_active: frozenset[str] = _NO_NAMES
        self.lora_waiting: frozenset[str] = _NO_NAMES
        self.attributes: dict[str, object] = {}

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, {self.host_port!r})"
