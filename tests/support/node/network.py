"""A network for Pods: a bridge on this machine, and for each Pod a network namespace with one end of a cable in it.

Pods reach each other and this machine, and nothing else. A namespace and its cable end with the process
that holds it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from typing import Final

_PREFIX: Final = "epp-"


class Network(ipaddress.IPv4Network):
    """A bridge called `bridge`, with the first address of these."""

    bridge: str

    @property
    def host(self) -> str:
        """The address of this machine on it."""
        return str(self.network_address + 1)


@contextlib.contextmanager
def open_network() -> Iterator[Network]:
    """A /24 that nothing else on this machine uses. Raises OSError where it may not be made."""
    _remove_those_without_owner()
    network = _free()
    network.bridge = f"{_PREFIX}{secrets.token_hex(4)}"
    ip(
        f"link add {network.bridge} type bridge",
        f"link set {network.bridge} alias 'owner {os.getpid()}'",
        f"addr add {network.host}/24 dev {network.bridge}",
        f"link set {network.bridge} up",
    )
    try:
        yield network
    finally:
        with contextlib.suppress(OSError):
            ip(f"link del {network.bridge}")


def connect(bridge: str, holder: int, address: str, gateway: str) -> None:
    """Give the namespace of process `holder` a cable to `bridge`, and `address` at its end."""
    cable = f"{_PREFIX}{secrets.token_hex(4)}"
    ip(f"link add {cable} type veth peer name eth0 netns {holder}", f"link set {cable} master {bridge} up")
    ip(
        "link set lo up",
        f"addr add {address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {gateway}",
        holder=holder,
    )


def ip(*commands: str, holder: int | None = None) -> None:
    """Commands of ip(8), here or in the network namespace of a process. Raises OSError with what it complains about."""
    where = ["nsenter", f"--net=/proc/{holder}/ns/net"] if holder else []
    try:
        done = subprocess.run([*where, "ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True)
    except FileNotFoundError as missing:
        raise OSError(f"{missing.filename} is not installed (Debian: iproute2, util-linux)") from None
    if done.returncode:
        raise OSError(f"ip {commands}: {done.stderr.strip()}")


def _free() -> Network:
    used = re.findall(r"^\S+", subprocess.run(["ip", "route"], capture_output=True, text=True).stdout, re.MULTILINE)
    taken = {text for text in used if "/" in text}
    while True:
        network = Network(f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}.0/24")
        if str(network) not in taken:
            return network


def _remove_those_without_owner() -> None:
    """Bridges of runs that were killed."""
    shown = subprocess.run(
        ["ip", "-json", "-details", "link", "show", "type", "bridge"], capture_output=True, text=True
    )
    for link in json.loads(shown.stdout or "[]"):
        owner = link.get("ifalias", "").removeprefix("owner ")
        if link["ifname"].startswith(_PREFIX) and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            with contextlib.suppress(OSError):
                ip(f"link del {link['ifname']}")
