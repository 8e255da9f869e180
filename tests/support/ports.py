"""Ports for programs that cannot listen on port 0 and say which they got, and for servers that come back on theirs.

They lie below those that Linux gives to outgoing connections, and none is given twice, so that no connection and no other
caller takes one between its choice and its use.
"""

from __future__ import annotations

import random
import socket
from itertools import cycle
from pathlib import Path
from typing import Final

_LOWEST: Final = 20_000
_OUTGOING: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many neighbouring ones, in their order. Raises RuntimeError when there are none."""
    found: list[int] = []
    for _ in range(2 * len(_PORTS)):
        port = next(_next_port)
        if found and port != found[-1] + 1:
            found.clear()
        if _is_free(port):
            found.append(port)
            if len(found) == count:
                return found
        else:
            found.clear()
    raise RuntimeError(f"no {count} neighbouring ports of 127.0.0.1 are free")


def _below_outgoing() -> range:
    lowest_outgoing = int(_OUTGOING.read_text().split()[0]) if _OUTGOING.exists() else 32_768
    return range(_LOWEST, max(lowest_outgoing, _LOWEST + 10_000))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_PORTS: Final = _below_outgoing()
# Another process of ours begins elsewhere.
_first: Final = random.SystemRandom().randrange(len(_PORTS))
_next_port: Final = cycle([*_PORTS[_first:], *_PORTS[:_first]])
