"""multicluster-kv-cache-utilization-scorer: the cluster with the most free KV cache is best."""

from __future__ import annotations

from typing import Final

from epp.api import Candidates, Floats, Request, Scorer
from epp_plugins.attributes import attribute_values
from epp_plugins.scores import within_unit

KV_CACHE_UTILIZATION: Final = "llm-d.ai/multicluster-kv-cache-utilization"


class MulticlusterKvCacheUtilizationScorer(Scorer):
    """1 minus a cluster's mean KV cache usage; 0 where it is not known.

    Reads the endpoint attribute `llm-d.ai/multicluster-kv-cache-utilization` (fraction 0..1).
    """

    type = "multicluster-kv-cache-utilization-scorer"
    experimental = True

    def score(self, request: Request, candidates: Candidates) -> Floats:
        return within_unit(1.0 - attribute_values(candidates, KV_CACHE_UTILIZATION))
