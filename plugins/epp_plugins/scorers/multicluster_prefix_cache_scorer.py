"""multicluster-prefix-cache-scorer: prefer clusters that got the beginning of the prompt before."""

from __future__ import annotations

from epp_plugins.scorers.prefix_cache_scorer import PrefixCacheScorer


class MulticlusterPrefixCacheScorer(PrefixCacheScorer):
    """The rule and the parameters of prefix-cache-scorer, where each endpoint is a whole cluster."""

    type = "multicluster-prefix-cache-scorer"
    experimental = True
