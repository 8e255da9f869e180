"""A latency model: for each target a physical prior and the trees that correct it. Immutable.

    base = prior(features) * exp(trees(features) * trust)

`trust` is 1 within the box of feature values that the trees were fitted on and falls towards 0 outside, so that
overload is extrapolated by the prior. `base` is the middle of what to expect of the average endpoint; `calibration`
turns it into a quantile for one endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from epp_predictor.features import COUNT, SCALES, Floats, clean
from epp_predictor.forest import Forest, Trees
from epp_predictor.prior import LEAST_MS, TARGETS, TERMS, terms

_FALL: Final = 4.0
"""One range of the training data outside of it leaves exp(-4) of the trees' correction."""
_MOST_CORRECTION: Final = 3.0
"""Trees correct the prior by a factor of exp(3) at most."""


@dataclass(frozen=True, slots=True, eq=False)
class TargetModel:
    """What was fitted for one target."""

    weights: Floats
    """One per term of the prior."""
    trees: Trees | None
    """None while there are too few samples for trees."""
    low: Floats
    high: Floats
    """Per feature, the range of the values that it was fitted on."""
    samples: int
    fitted_at_s: float
    """Wall-clock time, seconds since the epoch."""

    def __post_init__(self) -> None:
        if self.weights.shape != (len(TERMS),) or self.low.shape != (COUNT,) or self.high.shape != (COUNT,):
            raise ValueError("target model: expected one weight per term and one range per feature")
        if not all(np.isfinite(a).all() for a in (self.weights, self.low, self.high)) or (self.weights < 0).any():
            raise ValueError("target model: a weight is negative or not finite")
        if self.trees is not None and len(self.trees.feature) and self.trees.feature.max() >= COUNT:
            raise ValueError("target model: a tree reads a feature that does not exist")


class Model:
    """One or both targets, ready to predict."""

    __slots__ = ("_forest", "_forest_rows", "_high", "_low", "_per_range", "_weights", "of_target", "targets")

    def __init__(self, targets: dict[str, TargetModel]) -> None:
        if not targets or not set(targets) <= set(TARGETS):
            raise ValueError(f"model: expected some of the targets {TARGETS}, got {tuple(targets)}")
        self.of_target = dict(targets)
        self.targets = tuple(targets)
        """The rows of what `base_ms` returns."""
        self._weights = np.array([model.weights for model in targets.values()])
        with_trees = [(row, m, m.trees) for row, m in enumerate(targets.values()) if m.trees is not None]
        self._forest = Forest([trees for _, _, trees in with_trees]) if with_trees else None
        self._forest_rows = [row for row, _, _ in with_trees]
        if self._forest is not None:
            used = self._forest.used
            low = np.max([m.low[used] for _, m, _ in with_trees], axis=0)
            high = np.min([m.high[used] for _, m, _ in with_trees], axis=0)
            self._low, self._high = low[:, None], high[:, None]
            self._per_range = (_FALL / np.maximum(high - low, SCALES[used]))[:, None]

    def base_ms(self, features: Floats, *, are_clean: bool = False) -> tuple[Floats, Floats]:
        """Targets by candidates: the prediction in ms. And per candidate how far outside of what was seen it is: 0
        within, and 1 for a whole range outside in one feature. Raises ValueError for a matrix of another width than
        FEATURES. `are_clean`: they are what `clean` would make of them."""
        cleaned = features.T if are_clean else clean(features)
        base: Floats = self._weights @ terms(cleaned)
        np.maximum(base, LEAST_MS, out=base)
        outside = np.zeros(cleaned.shape[1])
        if self._forest is None:
            return base, outside
        used = cleaned.take(self._forest.used, axis=0)
        correction = self._forest.sums_of_used(used).T
        beyond = np.maximum(used - self._high, self._low - used)
        if beyond.size and np.maximum.reduce(beyond, axis=None) > 0:
            outside = (np.maximum(beyond, 0.0) * self._per_range).sum(axis=0)
            correction = correction * np.exp(-outside)
            outside /= _FALL
        factor = np.exp(np.minimum(np.maximum(correction, -_MOST_CORRECTION), _MOST_CORRECTION))
        if len(self._forest_rows) == len(base):
            base *= factor
        else:
            base[self._forest_rows] *= factor
        return base, outside
