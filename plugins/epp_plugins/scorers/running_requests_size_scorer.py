"""running-requests-size-scorer: the fewest running requests are best."""

from __future__ import annotations

from epp.api import RUNNING_REQUESTS, Candidates, Floats, Request, Scorer
from epp_plugins.scores import lowest_is_best


class RunningRequestsSizeScorer(Scorer):
    """(max - r) / (max - min) over the candidates; equal counts all score 1.

    Reads running_requests (requests; vllm:num_requests_running). Same rule as the Go EPP's scorer of that name.
    """

    type = "running-requests-size-scorer"

    def score(self, request: Request, candidates: Candidates) -> Floats:
        return lowest_is_best(candidates.column(RUNNING_REQUESTS))
