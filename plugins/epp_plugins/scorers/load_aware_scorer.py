"""load-aware-scorer: queues count against a fixed depth, not against each other."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from epp.api import WAITING_REQUESTS, Floats
from epp_plugins.column_scorer import ColumnScorer
from epp_plugins.scores import within_unit


class LoadAwareScorer(ColumnScorer):
    """0.5 * (1 - min(q, threshold) / threshold): 0.5 for an empty queue, which is the most it gives, 0 from the threshold on.

    Reads waiting_requests (requests). Same rule as the Go EPP's load-aware-scorer.
    """

    type = "load-aware-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        threshold: Annotated[int, msgspec.Meta(gt=0)] = 128  # requests

    column = WAITING_REQUESTS

    def rate(self, values: Floats) -> Floats:
        threshold = float(self.params.threshold)
        depth = np.fmin(values, threshold)
        return within_unit(0.5 - depth * (0.5 / threshold))
