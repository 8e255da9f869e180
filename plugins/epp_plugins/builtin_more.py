"""The table of plugins beyond the default configuration: disaggregation, sessions, topology, clusters, admission, reports."""

from __future__ import annotations

from typing import Final

from epp.api import Plugin
from epp_plugins.admitters.probabilistic_admitter import ProbabilisticAdmitter
from epp_plugins.deciders.always_disagg_multimodal_decider import AlwaysDisaggMultimodalDecider
from epp_plugins.deciders.always_disagg_pd_decider import AlwaysDisaggPdDecider
from epp_plugins.deciders.prefix_based_pd_decider import PrefixBasedPdDecider
from epp_plugins.filters.endpoint_attribute_filter import EndpointAttributeFilter
from epp_plugins.filters.multicluster_session_affinity_filter import MulticlusterSessionAffinityFilter
from epp_plugins.filters.session_affinity_filter import SessionAffinityFilter
from epp_plugins.filters.topology_affinity_filter import TopologyAffinityFilter
from epp_plugins.handlers.data_parallel_profile_handler import DataParallelProfileHandler
from epp_plugins.handlers.disagg_profile_handler import DisaggProfileHandler
from epp_plugins.handlers.header_profile_handler import HeaderProfileHandler
from epp_plugins.handlers.pd_profile_handler import PdProfileHandler
from epp_plugins.hooks.agent_identity import AgentIdentity
from epp_plugins.hooks.disagg_headers_handler import DisaggHeadersHandler
from epp_plugins.hooks.prefill_header_handler import PrefillHeaderHandler
from epp_plugins.hooks.request_attribute_reporter import RequestAttributeReporter
from epp_plugins.producers.burst_prefix_cache_producer import BurstPrefixCacheProducer
from epp_plugins.producers.mm_embeddings_cache_producer import MmEmbeddingsCacheProducer
from epp_plugins.producers.multicluster_approx_prefix_cache_producer import MulticlusterApproxPrefixCacheProducer
from epp_plugins.producers.p2p_source_producer import P2pSourceProducer
from epp_plugins.producers.precise_prefix_cache_producer import PrecisePrefixCacheProducer
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_plugins.producers.session_id_producer import SessionIdProducer
from epp_plugins.producers.token_producer import TokenProducer
from epp_plugins.scorers.context_length_aware import ContextLengthAware
from epp_plugins.scorers.endpoint_attribute_scorer import EndpointAttributeScorer
from epp_plugins.scorers.header_label_affinity_scorer import HeaderLabelAffinityScorer
from epp_plugins.scorers.mm_embeddings_cache_scorer import MmEmbeddingsCacheScorer
from epp_plugins.scorers.multicluster_kv_cache_utilization_scorer import MulticlusterKvCacheUtilizationScorer
from epp_plugins.scorers.multicluster_prefix_cache_scorer import MulticlusterPrefixCacheScorer
from epp_plugins.scorers.multicluster_queue_scorer import MulticlusterQueueScorer
from epp_plugins.scorers.precise_prefix_cache_scorer import PrecisePrefixCacheScorer
from epp_plugins.scorers.session_affinity_scorer import SessionAffinityScorer
from epp_plugins.scorers.topology_affinity_scorer import TopologyAffinityScorer
from epp_plugins.screeners.disaggregatedset_rollout_screener import DisaggregatedsetRolloutScreener

MORE: Final[tuple[type[Plugin], ...]] = (
    DisaggProfileHandler,
    HeaderProfileHandler,
    PdProfileHandler,
    DataParallelProfileHandler,
    AlwaysDisaggMultimodalDecider,
    AlwaysDisaggPdDecider,
    PrefixBasedPdDecider,
    EndpointAttributeFilter,
    MulticlusterSessionAffinityFilter,
    SessionAffinityFilter,
    TopologyAffinityFilter,
    ContextLengthAware,
    EndpointAttributeScorer,
    HeaderLabelAffinityScorer,
    MmEmbeddingsCacheScorer,
    MulticlusterKvCacheUtilizationScorer,
    MulticlusterPrefixCacheScorer,
    MulticlusterQueueScorer,
    PrecisePrefixCacheScorer,
    SessionAffinityScorer,
    TopologyAffinityScorer,
    BurstPrefixCacheProducer,
    MmEmbeddingsCacheProducer,
    MulticlusterApproxPrefixCacheProducer,
    P2pSourceProducer,
    PrecisePrefixCacheProducer,
    PredictedLatencyProducer,
    SessionIdProducer,
    TokenProducer,
    ProbabilisticAdmitter,
    DisaggregatedsetRolloutScreener,
    AgentIdentity,
    DisaggHeadersHandler,
    PrefillHeaderHandler,
    RequestAttributeReporter,
)
