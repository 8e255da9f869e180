"""session-affinity-filter: keep nothing but the endpoint that a session is bound to."""

from __future__ import annotations

from epp.api import Candidates, Filter, Request
from epp_plugins.session_affinity import SessionAffinity


class SessionAffinityFilter(SessionAffinity, Filter):
    """Keeps the endpoint that the request's session is bound to, all without one, and all when it is not a candidate.

    How sessions are found and bound: see SessionAffinity. Same rule as the Go EPP's session-affinity-filter.
    """

    type = "session-affinity-filter"
    experimental = True

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        return self.bound_to(request, candidates) or [True] * len(candidates)
