"""How good candidates are as far as it can be told without predictions: free KV cache, a short queue, a cached prompt."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from epp.api import KV_CACHE_USAGE, WAITING_REQUESTS, Candidates, Floats, PrefixMatch


class CompositeWeights(Protocol):
    """Parameters that say what counts how much."""

    @property
    def composite_kv_weight(self) -> float: ...
    @property
    def composite_queue_weight(self) -> float: ...
    @property
    def composite_prefix_weight(self) -> float: ...


def cached_share(candidates: Candidates, match: PrefixMatch | None) -> Floats:
    """How much of the prompt each candidate is believed to have cached; 0 where nobody knows."""
    if match is None or not match.total_blocks:
        return np.zeros(len(candidates))
    share: Floats = match.matched_blocks[candidates.rows] / match.total_blocks
    return share


def composite(candidates: Candidates, cached: Floats, params: CompositeWeights) -> Floats:
    """(kv * free share of the cache + queue * (max - q) / max + prefix * cached share of the prompt) / sum of the weights.

    One number in [0, 1] per candidate, in hundredths. A load that is unknown counts as none of the good: 0. Without any weight
    the cache alone counts.
    """
    kv, queue, prefix = params.composite_kv_weight, params.composite_queue_weight, params.composite_prefix_weight
    weights = kv + queue + prefix
    if weights <= 0:
        kv, queue, prefix, weights = 1.0, 0.0, 0.0, 1.0
    free = np.nan_to_num(1.0 - candidates.column(KV_CACHE_USAGE), nan=0.0)
    total = (kv * free + queue * _short_queue(candidates) + prefix * cached) / weights
    rounded: Floats = np.floor(total.clip(0.0, 1.0) * 100.0 + 0.5) / 100.0
    return rounded


def _short_queue(candidates: Candidates) -> Floats:
    waiting = candidates.column(WAITING_REQUESTS)
    known = ~np.isnan(waiting)
    longest = float(waiting[known].max(initial=0.0))
    if not longest:
        return known.astype(np.float64)
    share: Floats = np.where(known, (longest - waiting) / longest, 0.0)
    return share
