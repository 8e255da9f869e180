"""How good candidates are as far as it can be told without predictions: free KV cache, a short queue, a cached prompt."""

from __future__ import annotations

import numpy as np

from epp.api import KV_CACHE_USAGE, WAITING_REQUESTS, Candidates, Floats, PrefixMatch


def composite(candidates: Candidates, match: PrefixMatch | None, *, kv: float, queue: float, prefix: float) -> Floats:
    """(kv * free share of the cache + queue * (max - q) / max + prefix * matched / all blocks) / sum of the weights.

    One number in [0, 1] per candidate, in hundredths. A load that is unknown counts as none of the good: 0. Without any weight
    the cache alone counts.
    """
    weights = kv + queue + prefix
    if weights <= 0:
        kv, queue, prefix, weights = 1.0, 0.0, 0.0, 1.0
    free = np.nan_to_num(1.0 - candidates.column(KV_CACHE_USAGE), nan=0.0)
    cached = np.zeros(len(candidates))
    if match is not None and match.total_blocks:
        cached = match.matched_blocks[candidates.rows] / match.total_blocks
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
