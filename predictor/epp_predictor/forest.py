"""Gradient-boosted trees evaluated in numpy, several targets at once.

Walking down trees costs one round of gathers per level. Here every test of every tree is looked up at once (the idea of
QuickScorer, Lucchese et al., SIGIR 2015): leaves are numbered from left to right, and a test that fails (value >=
threshold) rules out the leaves on its left. For a feature, which tests fail depends only on how many of its sorted
thresholds the value reaches, so the surviving leaves of all trees for that rank are one row of a table. A candidate's
leaves are the AND of one row per feature, and in each tree the lowest bit left is the leaf.

Values are compared as float32, as XGBoost does, through their bits: for numbers that are not negative the order of the
bits is the order of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import Floats

MOST_LEAVES: Final = 32
_NONE: Final = np.uint32(0xFFFFFFFF)
_FLOAT32_BIAS: Final = 127
_FLOAT32_MANTISSA_BITS: Final = 23


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """The trees of one target as a list of tests and a table of leaves. The order of tests does not matter."""

    tree: NDArray[np.int32]
    """For each test: which tree it belongs to."""
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    survivors: NDArray[np.uint32]
    """For each test: the leaves that remain when the value is not under the threshold, one bit each, leftmost
    lowest."""
    leaves: NDArray[np.float32]
    """Trees by MOST_LEAVES: what each leaf adds."""

    def __post_init__(self) -> None:
        tests = len(self.tree)
        same_length = all(len(a) == tests for a in (self.feature, self.threshold, self.survivors))
        if not same_length or self.leaves.ndim != 2 or self.leaves.shape[1] != MOST_LEAVES:
            raise ValueError("trees: arrays do not fit together")
        if tests and not (self.tree.min() >= 0 and self.tree.max() < len(self.leaves) and self.feature.min() >= 0):
            raise ValueError("trees: a test belongs to no tree or reads no feature")
        if not (np.isfinite(self.leaves).all() and np.isfinite(self.threshold).all()):
            raise ValueError("trees: a leaf or a threshold is not finite")


class Forest:
    """The trees of one or more targets, ready to be evaluated. Immutable."""

    __slots__ = ("_keys", "_leaf_offset", "_leaves", "_of_target", "_row_offset", "_table", "_tag", "used")

    def __init__(self, targets: Sequence[Trees]) -> None:
        feature = np.concatenate([t.feature for t in targets])
        # -0.0 has the bits of the least integer; a threshold under 0 is always reached, as 0 is.
        threshold = np.maximum(np.concatenate([t.threshold for t in targets]), np.float32(0)) + np.float32(0)
        counts = [len(t.leaves) for t in targets]
        starts = np.concatenate(([0], np.cumsum(counts)))
        tree = np.concatenate([t.tree + start for t, start in zip(targets, starts, strict=False)])

        self.used, slot = np.unique(feature, return_inverse=True)
        """Numbers of the features that some tree tests; none when each tree is one leaf."""
        keys = (slot.astype(np.int64) << 32) + threshold.view(np.int32)
        self._keys = np.unique(keys)
        rank = np.searchsorted(self._keys, keys)
        # A feature has one row more than thresholds: the first, where no test fails.
        row = rank + slot + 1
        table = np.full((len(self._keys) + len(self.used), int(starts[-1])), _NONE)
        np.bitwise_and.at(table, (row, tree), np.concatenate([t.survivors for t in targets]))
        first = np.searchsorted(self._keys, np.arange(len(self.used), dtype=np.int64) << 32) + np.arange(len(self.used))
        for start, end in pairwise([*first, len(table)]):
            np.bitwise_and.accumulate(table[start:end], axis=0, out=table[start:end])
        self._table = table
        self._tag = (np.arange(len(self.used), dtype=np.int64) << 32)[:, None]
        self._row_offset = np.arange(len(self.used))[:, None]
        self._leaves = np.concatenate([t.leaves.ravel() for t in targets])
        self._leaf_offset = (np.arange(int(starts[-1])) * MOST_LEAVES - _FLOAT32_BIAS).astype(np.int32)
        self._of_target = np.zeros((int(starts[-1]), len(targets)), dtype=np.float32)
        for number, (start, end) in enumerate(pairwise(starts)):
            self._of_target[start:end, number] = 1.0

    def sums(self, cleaned: Floats) -> NDArray[np.float32]:
        """What the leaves add up to: candidates by targets. `cleaned`: features by candidates, none negative or NaN."""
        return self.sums_of_used(cleaned.take(self.used, axis=0))

    def sums_of_used(self, of_used: Floats) -> NDArray[np.float32]:
        """The same from the rows of `used` alone."""
        if not len(self.used):
            constant: NDArray[np.float32] = self._leaves[self._leaf_offset + _FLOAT32_BIAS] @ self._of_target
            return np.repeat(constant[None], of_used.shape[1], axis=0)
        values = of_used.astype(np.float32)
        reached = self._keys.searchsorted((values.view(np.int32) + self._tag).ravel(), "right")
        rows = reached.reshape(values.shape) + self._row_offset
        left = np.bitwise_and.reduce(self._table.take(rows, axis=0), axis=0)
        lowest = left & (~left + np.uint32(1))
        # The exponent of a power of two is its bit number.
        bits = lowest.astype(np.float32).view(np.int32) >> _FLOAT32_MANTISSA_BITS
        found: NDArray[np.float32] = self._leaves.take(bits + self._leaf_offset, mode="clip") @ self._of_target
        return found
