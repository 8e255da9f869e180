"""Narrows the pool to the endpoints that the gateway allows for one request (the subset hint). Pure.

An item is `ip:port` or `ip`; IPv6 with brackets, or bare when it has no port. An item with a port that is one of that IP's
means that endpoint, and any other means all endpoints of the IP. The Go EPP looks at the IP only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import numpy as np

from epp.api import Candidates, Endpoint


class SubsetIndex:
    """Finds the candidates that hints allow. Good for as long as the fleet's `candidates()` is the same object."""

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self._by_address: dict[str, list[int]] = {}
        self._by_host_port: dict[tuple[str, str], list[int]] = {}
        for position, endpoint in enumerate(candidates.endpoints):
            address = canonical(endpoint.address)
            self._by_address.setdefault(address, []).append(position)
            self._by_host_port.setdefault((address, str(endpoint.port)), []).append(position)

    def candidates_for(self, hint: Sequence[object] | None) -> Candidates:
        """Those that `hint` allows, in row order. None: all of them; an empty list: none. Only text items count."""
        if hint is None:
            return self.candidates
        mask = np.zeros(len(self.candidates), dtype=np.bool_)
        for item in hint:
            if isinstance(item, str):
                mask[self._positions(item)] = True
        return self.candidates.keep(mask)

    def at(self, text: str) -> Endpoint | None:
        """The first endpoint at exactly `ip:port`."""
        found = self._by_host_port.get(split_host_port(text))
        return self.candidates.endpoints[found[0]] if found else None

    def _positions(self, item: str) -> list[int]:
        at = split_host_port(item)
        return self._by_host_port.get(at) or self._by_address.get(at[0], [])


def split_host_port(text: str) -> tuple[str, str]:
    """Address (canonical, no brackets) and port (empty when there is none)."""
    text = text.strip()
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return canonical(address), rest.removeprefix(":")
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address, port
    return canonical(text), ""


def canonical(address: str) -> str:
    """One spelling for each IPv6 address; anything else comes back unchanged."""
    if ":" not in address:
        return address
    try:
        return ipaddress.ip_address(address).compressed
    except ValueError:
        return address
