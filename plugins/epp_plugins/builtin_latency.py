"""The table of plugins that go by latency predictions."""

from __future__ import annotations

from typing import Final

from epp.api import Plugin
from epp_plugins.admitters.latency_slo_admitter import LatencySloAdmitter
from epp_plugins.filters.slo_headroom_tier_filter import SloHeadroomTierFilter
from epp_plugins.handlers.slo_aware_profile_handler import SloAwareProfileHandler
from epp_plugins.hooks.slo_request_tracker import SloRequestTracker
from epp_plugins.scorers.latency_scorer import LatencyScorer
from epp_plugins.scorers.predicted_latency_scorer import PredictedLatencyScorer

LATENCY: Final[tuple[type[Plugin], ...]] = (
    SloAwareProfileHandler,
    SloHeadroomTierFilter,
    LatencyScorer,
    PredictedLatencyScorer,
    LatencySloAdmitter,
    SloRequestTracker,
)
