"""header-based-testing-filter: the client names the endpoints. For conformance tests."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from epp.api import Candidates, Filter, Request, headers

Target = tuple[str, int | None]  # canonical address, port; None: any port


class HeaderBasedTestingFilter(Filter):
    """Keeps the endpoints that the header test-epp-endpoint-selection lists: `IP` or `IP:port`, separated by commas.

    A bare IP keeps every endpoint with that address, whatever its port. IPv6 may stand with or without brackets. Without the
    header nothing stays. Filters only say who stays: the order of the list is not kept, and naming one twice means nothing.
    """

    type = "header-based-testing-filter"

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        targets = set(_targets(request.headers.get(headers.TEST_ENDPOINT_SELECTION, "")))
        kept = []
        for endpoint in candidates:
            address = _canonical(endpoint.address)
            kept.append((address, None) in targets or (address, endpoint.port) in targets)
        return kept


def _targets(text: str) -> Iterator[Target]:
    for item in text.split(","):
        bare = _canonical(item.strip())
        if bare:
            yield bare, None
        # Without brackets 2001:db8::1:8000 is an address, and may be meant as an address and a port.
        host, _, port = item.strip().rpartition(":")
        address = _canonical(host)
        if address and port.isascii() and port.isdigit():
            yield address, int(port)


def _canonical(text: str) -> str:
    """One spelling for each address; empty when `text` is none."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
