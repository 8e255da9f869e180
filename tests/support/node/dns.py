"""The cluster's DNS: addresses by the names of Services, as Pods' programs look them up (RFC 1035).

There is no kube-proxy here, so a name gives the addresses behind the Service that are ready, as a headless one's does
everywhere. So a Service's port has to be that of its Pods.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

PORT: Final = 53
DOMAIN: Final = "cluster.local"

Lookup = Callable[[str, str], Sequence[str] | None]
"""Name and namespace of a Service to addresses; None where there is none. May block."""

_HEADER: Final = struct.Struct("!6H")
_TYPE_A, _CLASS_IN = 1, 1
_ANSWERS: Final = 0x8580  # a response, authoritative; recursion was asked for and is given
_NO_SUCH_NAME: Final = 3
_TTL_S: Final = 1


def answer(query: bytes, lookup: Lookup) -> bytes:
    """To one question; further ones are left out, as servers do. Raises ValueError for what is no question."""
    if len(query) < _HEADER.size or _HEADER.unpack_from(query)[2] == 0:
        raise ValueError("not a question")
    name, end = _name(query, _HEADER.size)
    asked, _ = struct.unpack_from("!2H", query, end)
    found = _of_service(name, lookup)
    records = [
        struct.pack("!3HIH", 0xC000 | _HEADER.size, _TYPE_A, _CLASS_IN, _TTL_S, 4) + ipaddress.IPv4Address(a).packed
        for a in found or ()
        if asked == _TYPE_A
    ]
    flags = _ANSWERS | (_NO_SUCH_NAME if found is None else 0)
    header = _HEADER.pack(_HEADER.unpack_from(query)[0], flags, 1, len(records), 0, 0)
    return b"".join((header, query[_HEADER.size : end + 4], *records))


def _of_service(name: str, lookup: Lookup) -> Sequence[str] | None:
    """Of `service.namespace.svc.cluster.local`."""
    inner = name.lower().removesuffix(f".svc.{DOMAIN}")
    service, _, namespace = inner.partition(".")
    return lookup(service, namespace) if inner != name.lower() and namespace and "." not in namespace else None


def _name(query: bytes, at: int) -> tuple[str, int]:
    """The name that begins there, and where it ends."""
    labels: list[str] = []
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    if at + 5 > len(query):
        raise ValueError("cut short")
    return ".".join(labels), at + 1


class Server(asyncio.DatagramProtocol):
    """Answers over UDP. What cannot be answered is not: whoever asked asks again."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._answering = set[asyncio.Task[None]]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.create_task(self._answer(data, addr))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, query: bytes, asker: tuple[str, int]) -> None:
        try:
            self._transport.sendto(await asyncio.to_thread(answer, query, self._lookup), asker)
        except (ValueError, OSError) as error:
            print(f"DNS: {error}", flush=True)
