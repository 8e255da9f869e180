"""decode-filter: endpoints that may decode."""

from __future__ import annotations

from epp.api import Candidates, Filter, Request
from epp_plugins.roles import DECODE, with_role


class DecodeFilter(Filter):
    """Keeps endpoints whose `llm-d.ai/role` label names a decode role, and those without the label. As in the Go EPP."""

    type = "decode-filter"

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        return with_role(candidates, DECODE, unlabelled=True)
