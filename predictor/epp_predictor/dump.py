"""Trees as XGBoost dumps them: nested objects, for those who want to look at a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from epp_predictor.features import NAMES
from epp_predictor.forest import MOST_LEAVES, Trees


def dumped(trees: Trees) -> list[dict[str, Any]]:
    """One object per tree, in the layout of `Booster.get_dump(dump_format="json")`."""
    return [_Dump(trees, number).node(0) for number in range(len(trees.leaves))]


class _Dump:
    """A test rules out the leaves from the first of its subtree to the last of its left side; that tells where it
    stands."""

    def __init__(self, trees: Trees, number: int) -> None:
        self._leaves = trees.leaves[number].tolist()
        self._tests: dict[int, list[tuple[int, str, float]]] = {}
        for test in np.flatnonzero(trees.tree == number).tolist():
            ruled_out = ~int(trees.survivors[test]) & (2**MOST_LEAVES - 1)
            first = (ruled_out & -ruled_out).bit_length() - 1
            end = ruled_out.bit_length()
            found = end, NAMES[int(trees.feature[test])], float(trees.threshold[test])
            self._tests.setdefault(first, []).append(found)
        for tests in self._tests.values():
            tests.sort()
        self._next_id = 0

    def node(self, depth: int, first: int = 0) -> dict[str, Any]:
        """The subtree whose leftmost leaf is `first`: of the tests that begin there, the widest that is left is its
        root."""
        number, self._next_id = self._next_id, self._next_id + 1
        tests = self._tests.get(first)
        if not tests:
            return {"nodeid": number, "leaf": self._leaves[first]}
        middle, feature, threshold = tests.pop()
        left = self.node(depth + 1, first)
        right = self.node(depth + 1, middle)
        return {
            "nodeid": number,
            "depth": depth,
            "split": feature,
            "split_condition": threshold,
            "yes": left["nodeid"],
            "no": right["nodeid"],
            "missing": left["nodeid"],
            "children": [left, right],
        }
