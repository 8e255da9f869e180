"""queue-scorer: the shortest queue is best."""

from __future__ import annotations

from typing import Annotated

import msgspec

from epp.api import WAITING_REQUESTS, Floats
from epp_plugins.column_scorer import ColumnScorer
from epp_plugins.scores import lowest_is_best


class QueueScorer(ColumnScorer):
    """(max - q) / (max - min) over the candidates; equal queues all score 1.

    Queues of 0 and 1 thus differ as much as queues of 0 and 500. With `minSpread` (requests) queues that lie closer together
    than that differ less: 1 - (q - min) / minSpread.

    Reads waiting_requests (requests; vllm:num_requests_waiting). Same rule as the Go EPP's queue-scorer, but for `minSpread`.
    """

    type = "queue-scorer"

    column = WAITING_REQUESTS

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        min_spread: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # requests

    def rate(self, values: Floats) -> Floats:
        return lowest_is_best(values, least_span=self.params.min_spread)
