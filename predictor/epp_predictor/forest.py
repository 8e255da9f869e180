"""Gradient-boosted trees evaluated in numpy, several targets at once.

Walking down trees costs one round of gathers per level. Here every test of every tree is looked up at once (the idea of
QuickScorer, Lucchese et al., SIGIR 2015): leaves are numbered from left to right, and a test that fails (value >=
threshold) rules out the leaves on its left. For a feature, which tests fail depends only on how many of its sorted
thresholds the value reaches, so the surviving leaves of all trees for that rank are one row of a table. A candidate's
leaves are the AND of one row per feature, and in each tree the leftmost leaf that survives is the one.

Values are compared as float32, as XGBoost does, through their bits: for numbers that are not negative the order of the
bits is the order of the numbers.

For a few candidates each call of numpy costs more than what it computes. So the table is laid out such that little is
left to do between two look-ups, and numbers that stay the same from one evaluation to the next are kept in place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import Floats

MOST_LEAVES: Final = 32
_FEW_LEAVES: Final = 16
_NONE: Final = np.uint32(0xFFFFFFFF)
_FLOAT64_BIAS: Final = 1023
_FLOAT64_MANTISSA_BITS: Final = np.array(52)
_LOW_HALF: Final = 0 if sys.byteorder == "little" else 1
MOST_KEPT: Final = 4
"""Numbers of candidates whose arrays are kept."""


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


def watch(features: NDArray[np.int32], low: Floats, high: Floats) -> Trees:
    """Trees that add up to 0 where each of these features, fewer than MOST_LEAVES, is within its range, else to more: as
    part of a forest they tell that for next to nothing. Ranges are taken as float32 numbers."""
    lowest, highest = low.astype(np.float32), high.astype(np.float32)
    count = len(features)
    leaves = np.zeros((2, MOST_LEAVES), dtype=np.float32)
    leaves[0, 1:] = 1.0  # whoever exceeds a range leaves the first leaf
    leaves[1, :count] = 1.0  # each feature leaves one by reaching its range
    reached = np.uint32(1) << np.arange(count, dtype=np.uint32)
    return Trees(
        np.repeat(np.array((0, 1), dtype=np.int32), count),
        np.tile(features, 2),
        np.concatenate((np.nextafter(highest, np.float32(np.inf)), lowest)),
        np.concatenate((np.full(count, ~np.uint32(1)), ~reached)),
        leaves,
    )


class Forest:
    """The trees of one or more targets, ready to be evaluated, by one thread."""

    __slots__ = ("_constant", "_keys", "_leaf_offset", "_leaves", "_of_target", "_table", "_work", "used")

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
        # A feature begins with a key under all of its values, for the row where no test fails.
        first_keys = (np.arange(len(self.used), dtype=np.int64) << 32) - 1
        self._keys = np.unique(np.concatenate((first_keys, keys)))
        # Row r of the table is for values that reach r keys; none reaches less than one.
        survivors = np.concatenate([t.survivors for t in targets])
        # Half as much to fetch where no tree has more leaves than that, as with the usual depth.
        bits = _FEW_LEAVES if (survivors >> _FEW_LEAVES == _NONE >> _FEW_LEAVES).all() else MOST_LEAVES
        survivors = _leftmost_highest(survivors, bits)
        table = np.full((len(self._keys) + 1, int(starts[-1])), _NONE).astype(survivors.dtype)
        row = np.searchsorted(self._keys, keys, "right")
        np.bitwise_and.at(table, (row, tree), survivors)
        first_rows = np.searchsorted(self._keys, first_keys, "right")
        for start, end in pairwise([*first_rows, len(table)]):
            np.bitwise_and.accumulate(table[start:end], axis=0, out=table[start:end])
        self._table = table
        leaves = np.concatenate([t.leaves for t in targets])[:, bits - 1 :: -1]
        self._leaves = leaves.ravel().astype(np.float64)
        self._leaf_offset = np.arange(len(leaves)) * bits - _FLOAT64_BIAS
        self._of_target = np.zeros((len(targets), int(starts[-1])))
        for number, (start, end) in enumerate(pairwise(starts)):
            self._of_target[number, start:end] = 1.0
        self._constant = self._of_target.dot(leaves[:, -1])
        self._work = lru_cache(MOST_KEPT)(partial(_Work, len(self.used), self._leaf_offset, table.dtype))

    def sums(self, cleaned: Floats) -> Floats:
        """What the leaves add up to: targets by candidates. `cleaned`: features by candidates, none negative or NaN."""
        candidates = cleaned.shape[1]
        if not len(self.used):
            return np.repeat(self._constant[:, None], candidates, axis=1)
        work = self._work(candidates)
        work.values[...] = cleaned.take(self.used, axis=0)
        # With mode=clip numpy writes to `out` directly; no number is out of range.
        self._table.take(self._keys.searchsorted(work.keys, "right"), axis=0, out=work.rows, mode="clip")
        np.bitwise_and.reduce(work.rows_of_features, axis=0, out=work.left)
        # The exponent of a number is that of its highest bit.
        work.as_float[...] = work.left
        np.right_shift(work.bits, _FLOAT64_MANTISSA_BITS, out=work.bits)
        np.add(work.bits, work.leaf_offset, out=work.bits)
        self._leaves.take(work.bits, out=work.found, mode="clip")
        sums: Floats = self._of_target.dot(work.by_tree)
        return sums


class _Work:
    """Arrays that an evaluation for so many candidates fills, and constants of their size: making them costs more than
    keeping them."""

    __slots__ = (
        *("as_float", "bits", "by_tree", "found", "keys", "leaf_offset", "left", "rows", "rows_of_features", "values"),
    )

    def __init__(
        self, features: int, leaf_offset: NDArray[np.intp], leaf_bits: np.dtype[np.unsignedinteger], candidates: int
    ) -> None:
        trees = len(leaf_offset)
        halves = np.zeros((features, candidates, 2), dtype=np.int32)
        halves[..., 1 - _LOW_HALF] = np.arange(features)[:, None]
        self.values = halves.view(np.float32)[..., _LOW_HALF]
        self.keys = halves.reshape(-1).view(np.int64)
        """The bits of `values`, and above them the feature's slot."""
        self.rows = np.empty((features * candidates, trees), dtype=leaf_bits)
        self.rows_of_features = self.rows.reshape(features, candidates * trees)
        self.left = np.empty(candidates * trees, dtype=leaf_bits)
        self.as_float = np.empty(candidates * trees)
        self.bits = self.as_float.view(np.int64)
        self.leaf_offset = np.tile(leaf_offset, candidates)
        self.found = np.empty(candidates * trees)
        self.by_tree = self.found.reshape(candidates, trees).T


def _leftmost_highest(leaves: NDArray[np.uint32], bits: int) -> NDArray[np.unsignedinteger]:
    """The same sets of leaves, of `bits` leaves each, with the bits in the opposite order."""
    each = np.unpackbits(leaves.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    turned = np.packbits(each[:, :bits][:, ::-1], axis=1, bitorder="little")
    return turned.view(f"<u{bits // 8}").ravel().astype(f"u{bits // 8}")
