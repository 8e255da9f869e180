"""running-requests-size-scorer: the fewest running requests are best."""

from __future__ import annotations

from epp.api import RUNNING_REQUESTS, Floats
from epp_plugins.column_scorer import ColumnScorer
from epp_plugins.scores import lowest_is_best


class RunningRequestsSizeScorer(ColumnScorer):
    """(max - r) / (max - min) over the candidates; equal counts all score 1.

    Reads running_requests (requests; vllm:num_requests_running). Same rule as the Go EPP's scorer of that name.
    """

    type = "running-requests-size-scorer"

    column = RUNNING_REQUESTS

    def rate(self, values: Floats) -> Floats:
        return lowest_is_best(values)
