"""A latency model: for each target a physical prior and the trees that correct it. Immutable.

    base = prior(features) * exp(trees(features) * trust)

`trust` is 1 within the box of feature values that the trees were fitted on and falls towards 0 outside, so that
overload is extrapolated by the prior. `base` is the middle of what to expect of the average endpoint; `calibration`
turns it into a quantile for one endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COUNT, SCALES, Floats, clean
from epp_predictor.forest import MOST_KEPT, Forest, Trees, watch
from epp_predictor.prior import LEAST_MS, TARGETS, TERMS, TermRows

_FALL: Final = 4.0
"""One range of the training data outside of it leaves exp(-4) of the trees' correction."""
_MOST_CORRECTION: Final = 3.0
"""Trees correct the prior by a factor of exp(3) at most."""
# Arrays, since numpy makes one of every Python number that it is given, each time.
_LEFT_A_RANGE_AWAY: Final = np.array(np.exp(-_FALL))
_HIGHEST: Final = np.array(_MOST_CORRECTION)
_LOWEST: Final = np.array(-_MOST_CORRECTION)
_LEAST: Final = np.array(LEAST_MS)


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
    """One or both targets, ready to predict, by one thread."""

    __slots__ = ("_forest", "_forest_rows", "_is_bounded", "_range", "_terms", "_weights", "of_target", "targets")

    def __init__(self, targets: dict[str, TargetModel]) -> None:
        if not targets or not set(targets) <= set(TARGETS):
            raise ValueError(f"model: expected some of the targets {TARGETS}, got {tuple(targets)}")
        self.of_target = {target: targets[target] for target in TARGETS if target in targets}
        self.targets = tuple(self.of_target)
        """The rows of what `base_ms` returns, in the order of TARGETS."""
        self._weights = np.array([model.weights for model in self.of_target.values()])
        self._terms = lru_cache(MOST_KEPT)(partial(TermRows, (self._weights != 0).any(axis=0)))
        with_trees = [(row, m, m.trees) for row, m in enumerate(self.of_target.values()) if m.trees is not None]
        self._forest_rows = [row for row, _, _ in with_trees]
        self._forest: Forest | None = None
        if with_trees:
            used = np.unique(np.concatenate([trees.feature for _, _, trees in with_trees]))
            low = np.max([m.low[used] for _, m, _ in with_trees], axis=0)
            high = np.min([m.high[used] for _, m, _ in with_trees], axis=0)
            self._range = _Range(used, low[:, None], high[:, None], 1.0 / np.maximum(high - low, SCALES[used]))
            self._forest = Forest([*(trees for _, _, trees in with_trees), watch(used, low, high)])
            most = max(float(np.abs(trees.leaves).max(axis=1).sum()) for _, _, trees in with_trees)
            self._is_bounded = most <= _MOST_CORRECTION

    def base_ms(self, features: Floats, *, are_clean: bool = False) -> tuple[Floats, Floats]:
        """Targets by candidates: the prediction in ms. And per candidate how far outside of what was seen it is: 0
        within, and 1 for a whole range outside in one feature. Raises ValueError for a matrix of another width than
        FEATURES. `are_clean`: they are what `clean` would make of them."""
        cleaned = features.T if are_clean else clean(features)
        base: Floats = self._weights.dot(self._terms(cleaned.shape[1]).fill(cleaned))
        np.maximum(base, _LEAST, out=base)
        if self._forest is None:
            return base, np.zeros(cleaned.shape[1])
        sums = self._forest.sums(cleaned)
        factor, outside = sums[:-1], sums[-1]
        if any(outside.tolist()):  # `any` of an array takes several times as long
            outside = self._range.outside(cleaned)
            np.multiply(factor, np.power(_LEFT_A_RANGE_AWAY, outside), out=factor)
        if not self._is_bounded:
            np.minimum(np.maximum(factor, _LOWEST, out=factor), _HIGHEST, out=factor)
        np.exp(factor, out=factor)
        if len(self._forest_rows) == len(base):
            np.multiply(base, factor, out=base)
        else:
            base[self._forest_rows] *= factor
        return base, outside


@dataclass(frozen=True, slots=True, eq=False)
class _Range:
    """What the trees were fitted on, of the features that they test."""

    features: NDArray[np.int32]
    low: Floats
    high: Floats
    per_range: Floats

    def outside(self, cleaned: Floats) -> Floats:
        values = cleaned[self.features]
        outside: Floats = self.per_range.dot(np.maximum(np.maximum(values - self.high, self.low - values), 0.0))
        return outside
