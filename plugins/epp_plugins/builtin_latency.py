"""The table of plugins that go by latency predictions."""

from __future__ import annotations

from typing import Final

from epp.api import Plugin
from epp_plugins.admitters.latency_slo_admitter import LatencySloAdmitter
from epp_plugins.filters.slo_headroom_tier_filter import SloHeadroomTierFilter
from epp_plugins.scorers.latency_scorer import LatencyScorer

LATENCY: Final[tuple[type[Plugin], ...]] = (
    SloHeadroomTierFilter,
    LatencyScorer,
    LatencySloAdmitter,
)
