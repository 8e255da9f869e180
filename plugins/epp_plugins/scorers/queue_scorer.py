"""queue-scorer: the shortest queue is best."""

from __future__ import annotations

from epp.api import WAITING_REQUESTS, Floats
from epp_plugins.column_scorer import ColumnScorer
from epp_plugins.scores import lowest_is_best


class QueueScorer(ColumnScorer):
    """(max - q) / (max - min) over the candidates; equal queues all score 1.

    Reads waiting_requests (requests; vllm:num_requests_waiting). Same rule as the Go EPP's queue-scorer.
    """

    type = "queue-scorer"

    column = WAITING_REQUESTS

    def rate(self, values: Floats) -> Floats:
        return lowest_is_best(values)
