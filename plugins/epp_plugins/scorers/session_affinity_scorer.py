"""session-affinity-scorer: prefer the endpoint that a session is bound to."""

from __future__ import annotations

import numpy as np

from epp.api import Candidates, Floats, Request, Scorer
from epp_plugins.session_affinity import SessionAffinity


class SessionAffinityScorer(SessionAffinity, Scorer):
    """1 for the endpoint that the request's session is bound to, 0 for the others, and for all without one.

    How sessions are found and bound: see SessionAffinity. Same rule as the Go EPP's session-affinity-scorer.
    """

    type = "session-affinity-scorer"
    experimental = True

    def score(self, request: Request, candidates: Candidates) -> Floats:
        mask = self.bound_to(request, candidates)
        return np.zeros(len(candidates)) if mask is None else np.asarray(mask, dtype=np.float64)
