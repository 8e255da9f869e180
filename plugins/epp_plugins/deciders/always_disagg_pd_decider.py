"""always-disagg-pd-decider: prefill elsewhere, whatever the request."""

from __future__ import annotations

from epp.api import Decider, Endpoint, Request


class AlwaysDisaggPdDecider(Decider):
    """Always yes. Same rule as the Go EPP's always-disagg-pd-decider."""

    type = "always-disagg-pd-decider"

    def disaggregate(self, request: Request, endpoint: Endpoint | None) -> bool:
        return True
