"""Endpoints given on the command line: `--endpoint [NAME=]HOST:PORT[,...]`. Read once, at the start.

HOST is an IPv4 address, an IPv6 address in brackets, or `localhost`. Other names are refused: the proxy is told addresses,
and an address that was looked up at the start may be somebody else's later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from epp.api import ConfigError, host_port
from epp.data.endpoint_spec import EndpointSpec

_FORM: Final = "[NAME=]HOST:PORT, for example 127.0.0.1:8000 or a=[::1]:8000"


def parse_endpoints(values: Iterable[str], *, namespace: str = "default") -> list[EndpointSpec]:
    """The endpoints that the flag's values describe. An endpoint without a name is named `host:port`.

    Raises ConfigError that names the flag, the value and what is wrong with it.
    """
    specs: dict[str, EndpointSpec] = {}
    for value in values:
        for text in filter(None, (part.strip() for part in value.split(","))):
            spec = _parse(text, namespace)
            if spec.name in specs:
                raise ConfigError(f"--endpoint {text!r}: there is an endpoint named {spec.name!r} already")
            if any((spec.address, spec.port) == (other.address, other.port) for other in specs.values()):
                raise ConfigError(f"--endpoint {text!r}: there is an endpoint at this address already")
            specs[spec.name] = spec
    return list(specs.values())


def _parse(text: str, namespace: str) -> EndpointSpec:
    name, equals, at = text.rpartition("=")
    name = name.strip()
    if equals and not name:
        raise ConfigError(f"--endpoint {text!r}: the name is empty; expected {_FORM}")
    host, colon, port_text = at.strip().rpartition(":")
    if not colon or not host:
        raise ConfigError(f"--endpoint {text!r}: no port; expected {_FORM}")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 1 <= int(port_text) <= 65535):
        raise ConfigError(f"--endpoint {text!r}: port {port_text!r} is not in 1..65535")
    port = int(port_text)
    address = _address(text, host)
    return EndpointSpec(name or host_port(address, port), address, port, namespace=namespace)


def _address(text: str, host: str) -> str:
    if host == "localhost":
        return _localhost()
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ConfigError(f"--endpoint {text!r}: {host!r} is neither an IP address nor localhost") from None
    if bracketed != (address.version == 6):
        expected = "an IPv6 address stands in brackets" if address.version == 6 else "only IPv6 addresses have brackets"
        raise ConfigError(f"--endpoint {text!r}: {expected}; expected {_FORM}")
    return address.compressed


def _localhost() -> str:
    """The loopback address that the name means here: IPv4 where there is one."""
    try:
        found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"--endpoint: localhost has no address here: {error}") from error
    addresses = [str(address[0]) for family, _, _, _, address in found if family in (socket.AF_INET, socket.AF_INET6)]
    return min(addresses, key=lambda address: ":" in address)
