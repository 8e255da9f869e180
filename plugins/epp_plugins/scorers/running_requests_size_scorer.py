"""running-requests-size-scorer: the fewest running requests are best."""

from __future__ import annotations

from typing import Annotated

import msgspec

from epp.api import RUNNING_REQUESTS, Floats
from epp_plugins.column_scorer import ColumnScorer
from epp_plugins.scores import lowest_is_best


class RunningRequestsSizeScorer(ColumnScorer):
    """(max - r) / (max - min) over the candidates; equal counts all score 1.

    With `minSpread` (requests) counts that lie closer together than that differ less: 1 - (r - min) / minSpread.

    Reads running_requests (requests; vllm:num_requests_running). Same rule as the Go EPP's scorer of that name, but for
    `minSpread`.
    """

    type = "running-requests-size-scorer"

    column = RUNNING_REQUESTS

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        min_spread: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # requests

    def rate(self, values: Floats) -> Floats:
        return lowest_is_best(values, least_span=self.params.min_spread)
