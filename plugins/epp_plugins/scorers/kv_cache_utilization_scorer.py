"""kv-cache-utilization-scorer: the emptiest KV cache is best."""

from __future__ import annotations

from epp.api import KV_CACHE_USAGE, Floats
from epp_plugins.column_scorer import ColumnScorer
from epp_plugins.scores import within_unit


class KvCacheUtilizationScorer(ColumnScorer):
    """1 - usage; 0 where the usage is not known.

    Reads kv_cache_usage (fraction; vllm:kv_cache_usage_perc). Same rule as the Go EPP's kv-cache-utilization-scorer.
    """

    type = "kv-cache-utilization-scorer"

    column = KV_CACHE_USAGE

    def rate(self, values: Floats) -> Floats:
        return within_unit(1.0 - values)
