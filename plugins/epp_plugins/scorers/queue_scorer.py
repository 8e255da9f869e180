"""queue-scorer: the shortest queue is best."""

from __future__ import annotations

from epp.api import WAITING_REQUESTS, Candidates, Floats, Request, Scorer
from epp_plugins.scores import lowest_is_best


class QueueScorer(Scorer):
    """(max - q) / (max - min) over the candidates; equal queues all score 1.

    Reads waiting_requests (requests; vllm:num_requests_waiting). Same rule as the Go EPP's queue-scorer.
    """

    type = "queue-scorer"

    def score(self, request: Request, candidates: Candidates) -> Floats:
        return lowest_is_best(candidates.column(WAITING_REQUESTS))
