"""multicluster-approx-prefix-cache-producer: guesses from past picks which cluster has which beginning of the prompt cached."""

from __future__ import annotations

from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer


class MulticlusterApproxPrefixCacheProducer(ApproxPrefixCacheProducer):
    """The rule and the parameters of approx-prefix-cache-producer, where each endpoint is a whole cluster."""

    type = "multicluster-approx-prefix-cache-producer"
    experimental = True
