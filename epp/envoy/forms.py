"""The forms that every part of an Envoy configuration is made of. Pure."""

from __future__ import annotations

JsonObject = dict[str, object]

TYPE = "type.googleapis.com/envoy"


def extension(name: str, message: str, **fields: object) -> JsonObject:
    """A named extension with its typed configuration."""
    return {"name": name, "typed_config": {"@type": f"{TYPE}.extensions.{message}", **fields}}


def seconds(duration_s: float) -> str:
    """A Duration in JSON, to the millisecond."""
    return f"{duration_s:.3f}".rstrip("0").rstrip(".") + "s"


def socket_address(address: str) -> JsonObject:
    """``host:port``, an IPv6 address in brackets, as Envoy's Address. Raises ValueError on anything else."""
    return address_of(*split_address(address))


def address_of(host: str, port: int) -> JsonObject:
    """Envoy's Address; `host` has no brackets."""
    return {"socket_address": {"address": host, "port_value": port}}


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of ``host:port``. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdecimal()):
        raise ValueError(f"{address!r} is not an address of the form ip:port")
    return host, int(port)
