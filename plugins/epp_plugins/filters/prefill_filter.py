"""prefill-filter: endpoints that may prefill."""

from __future__ import annotations

from epp.api import Candidates, Filter, Request
from epp_plugins.roles import PREFILL, with_role


class PrefillFilter(Filter):
    """Keeps endpoints whose `llm-d.ai/role` label names a prefill role. As in the Go EPP."""

    type = "prefill-filter"

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        return with_role(candidates, PREFILL)
