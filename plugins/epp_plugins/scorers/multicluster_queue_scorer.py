"""multicluster-queue-scorer: the cluster with the shortest queue is best."""

from __future__ import annotations

from typing import Final

import numpy as np

from epp.api import Candidates, Floats, Request, Scorer
from epp_plugins.attributes import attribute_values
from epp_plugins.scores import lowest_is_best

QUEUE_SIZE: Final = "llm-d.ai/multicluster-queue-size"


class MulticlusterQueueScorer(Scorer):
    """The rule of queue-scorer for a cluster's mean queue, among the clusters that tell it; the others score 0.

    Reads the endpoint attribute `llm-d.ai/multicluster-queue-size` (requests).
    """

    type = "multicluster-queue-scorer"
    experimental = True

    def score(self, request: Request, candidates: Candidates) -> Floats:
        values = attribute_values(candidates, QUEUE_SIZE)
        known = np.isfinite(values)
        scores: Floats = np.zeros(len(candidates))
        scores[known] = lowest_is_best(values[known])
        return scores
