"""The table of scheduling plugins: everything from the profile handler to the picker, and what they know about a request."""

from __future__ import annotations

from typing import Final

from epp.api import Plugin
from epp_plugins.detectors.concurrency_detector import ConcurrencyDetector
from epp_plugins.detectors.utilization_detector import UtilizationDetector
from epp_plugins.filters.by_label import ByLabel
from epp_plugins.filters.by_label_selector import ByLabelSelector
from epp_plugins.filters.decode_filter import DecodeFilter
from epp_plugins.filters.encode_filter import EncodeFilter
from epp_plugins.filters.header_based_testing_filter import HeaderBasedTestingFilter
from epp_plugins.filters.label_selector_filter import LabelSelectorFilter
from epp_plugins.filters.prefill_filter import PrefillFilter
from epp_plugins.filters.prefix_cache_affinity_filter import PrefixCacheAffinityFilter
from epp_plugins.filters.utilization_filter import UtilizationFilter
from epp_plugins.handlers.single_profile_handler import SingleProfileHandler
from epp_plugins.hooks.destination_endpoint_served_verifier import DestinationEndpointServedVerifier
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from epp_plugins.pickers.random_picker import RandomPicker
from epp_plugins.pickers.weighted_random_picker import WeightedRandomPicker
from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from epp_plugins.producers.inflight_load_producer import InflightLoadProducer
from epp_plugins.producers.prefill_backlog_producer import PrefillBacklogProducer
from epp_plugins.scorers.active_request_scorer import ActiveRequestScorer
from epp_plugins.scorers.expected_cost_scorer import ExpectedCostScorer
from epp_plugins.scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from epp_plugins.scorers.load_aware_scorer import LoadAwareScorer
from epp_plugins.scorers.lora_affinity_scorer import LoraAffinityScorer
from epp_plugins.scorers.no_hit_lru_scorer import NoHitLruScorer
from epp_plugins.scorers.prefix_cache_scorer import PrefixCacheScorer
from epp_plugins.scorers.queue_scorer import QueueScorer
from epp_plugins.scorers.running_requests_size_scorer import RunningRequestsSizeScorer
from epp_plugins.scorers.token_load_scorer import TokenLoadScorer

SCHEDULING: Final[tuple[type[Plugin], ...]] = (
    SingleProfileHandler,
    ByLabel,
    ByLabelSelector,
    DecodeFilter,
    EncodeFilter,
    HeaderBasedTestingFilter,
    LabelSelectorFilter,
    PrefillFilter,
    PrefixCacheAffinityFilter,
    UtilizationFilter,
    ConcurrencyDetector,
    UtilizationDetector,
    ActiveRequestScorer,
    ExpectedCostScorer,
    KvCacheUtilizationScorer,
    LoadAwareScorer,
    LoraAffinityScorer,
    NoHitLruScorer,
    PrefixCacheScorer,
    QueueScorer,
    RunningRequestsSizeScorer,
    TokenLoadScorer,
    MaxScorePicker,
    RandomPicker,
    WeightedRandomPicker,
    ApproxPrefixCacheProducer,
    InflightLoadProducer,
    PrefillBacklogProducer,
    DestinationEndpointServedVerifier,
)
