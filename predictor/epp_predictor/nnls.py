"""Least squares with weights that are not negative: min |A w - b|, w >= 0. Pure numpy.

The active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23) on the normal equations,
as Bro and de Jong do it (Journal of Chemometrics 11, 1997). Meant for a dozen columns; the number of rows hardly
matters.
"""

from __future__ import annotations

import numpy as np

from epp_predictor.features import Floats

_ROUNDS_PER_COLUMN = 10


def nnls(matrix: Floats, wanted: Floats) -> Floats:
    """Weights, one per column of `matrix` (rows x columns). A column of zeros gets 0."""
    length = np.sqrt((matrix * matrix).sum(axis=0))
    usable = length > 0
    scale = np.where(usable, length, 1.0)
    scaled = matrix / scale
    return _solve(scaled.T @ scaled, scaled.T @ wanted, usable) / scale


def _solve(gram: Floats, moments: Floats, usable: np.ndarray) -> Floats:
    count = len(moments)
    weights = np.zeros(count)
    passive = np.zeros(count, dtype=bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(moments).max(initial=0.0)))
    for _ in range(_ROUNDS_PER_COLUMN * count):
        gradient = np.where(usable & ~passive, moments - gram @ weights, -np.inf)
        best = int(gradient.argmax())
        if gradient[best] <= tolerance:
            break
        passive[best] = True
        weights = _step(gram, moments, passive, weights)
    return weights


def _step(gram: Floats, moments: Floats, passive: np.ndarray, weights: Floats) -> Floats:
    """The best weights of the passive set; columns whose weight would turn negative leave it on the way there."""
    while True:
        chosen = np.flatnonzero(passive)
        free = np.linalg.lstsq(gram[np.ix_(chosen, chosen)], moments[chosen], rcond=1e-12)[0]
        if (free > 0).all():
            weights = np.zeros_like(weights)
            weights[chosen] = free
            return weights
        negative = free <= 0
        before = weights[chosen]
        part = float(np.min(before[negative] / np.maximum(before[negative] - free[negative], 1e-300)))
        moved = before + part * (free - before)
        moved[negative & (moved <= moved[negative].min() + 1e-15)] = 0.0
        weights = np.zeros_like(weights)
        weights[chosen] = np.maximum(moved, 0.0)
        passive[chosen[negative & (weights[chosen] == 0.0)]] = False
        if not passive.any():
            return weights
