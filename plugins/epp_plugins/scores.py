"""From measurements to scores: the two shapes that several scorers share. Numbers that make no sense score 0, never NaN."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from epp.api import Floats

# Larger counts than any server has; keeps differences finite.
_HUGE: Final = 1e15


def lowest_is_best(values: Floats, *, least_span: float = 0.0) -> Floats:
    """(max - v) / (max - min): 1 for the lowest, 0 for the highest, all 1 when equal. A value that is not finite scores 0.

    A smaller difference than `least_span` between the highest and the lowest makes as much less of a difference in scores.
    """
    if not len(values):
        return np.zeros(0)
    # argmin and item cost a quarter of min() on short vectors, and hand a NaN through.
    low, high = values.item(values.argmin()), values.item(values.argmax())
    span = high - low
    if span == 0.0:
        return np.ones(len(values))
    if 0.0 < span < math.inf:
        return (high - values) / span if span >= least_span else 1.0 - (values - low) / least_span
    scores = np.zeros(len(values))
    usable = np.isfinite(values)
    scores[usable] = lowest_is_best(values[usable].clip(0.0, _HUGE), least_span=least_span)
    return scores


def within_unit(scores: Floats) -> Floats:
    """`scores` clipped to [0, 1], NaN as 0; the same array when nothing is to be clipped."""
    if not len(scores) or (scores.item(scores.argmin()) >= 0.0 and scores.item(scores.argmax()) <= 1.0):
        return scores
    return np.fmin(np.fmax(scores, 0.0), 1.0)
