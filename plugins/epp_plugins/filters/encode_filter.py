"""encode-filter: endpoints that may encode media."""

from __future__ import annotations

from epp.api import Candidates, Filter, Request
from epp_plugins.roles import ENCODE, with_role


class EncodeFilter(Filter):
    """Keeps endpoints whose `llm-d.ai/role` label names an encode role. As in the Go EPP."""

    type = "encode-filter"

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        return with_role(candidates, ENCODE)
