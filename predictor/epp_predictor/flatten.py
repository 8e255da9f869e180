"""From the trees of an XGBoost model, as it writes them in JSON, to the arrays that `forest` evaluates."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from epp_predictor.forest import MOST_LEAVES, Trees


def flatten(model_json: bytes | bytearray) -> Trees:
    """`Booster.save_raw("json")` as arrays. Raises ValueError for categorical splits and for trees of more than 32
    leaves."""
    learner = json.loads(model_json)["learner"]
    base = _base_score(learner["learner_model_param"]["base_score"])
    tests: list[tuple[int, int, float, int]] = []
    leaves = []
    for number, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
        values: list[float] = []
        _walk(tree, 0, number, values, tests)
        if len(values) > MOST_LEAVES:
            raise ValueError(f"trees[{number}]: expected at most {MOST_LEAVES} leaves, got {len(values)}")
        leaves.append(values + [0.0] * (MOST_LEAVES - len(values)))
    if not leaves:
        leaves.append([0.0] * MOST_LEAVES)
    table = np.array(leaves, dtype=np.float32)
    table[0] += np.float32(base)  # every candidate ends in one leaf of the first tree
    return Trees(
        np.array([t[0] for t in tests], dtype=np.int32),
        np.array([t[1] for t in tests], dtype=np.int32),
        np.array([t[2] for t in tests], dtype=np.float32),
        np.array([t[3] for t in tests], dtype=np.uint32),
        table,
    )


def _base_score(shown: str) -> float:
    """A number, or since XGBoost 3 a list of one."""
    return float(shown.strip("[]"))


def _walk(
    tree: dict[str, Any], node: int, number: int, leaves: list[float], tests: list[tuple[int, int, float, int]]
) -> None:
    """Leaves from left to right, and each test with the leaves that survive when it fails."""
    left = tree["left_children"][node]
    if left == -1:
        leaves.append(tree["split_conditions"][node])
        return
    if tree["split_type"][node]:
        raise ValueError(f"trees[{number}]: categorical splits are not supported")
    first = len(leaves)
    _walk(tree, left, number, leaves, tests)
    ruled_out = (1 << len(leaves)) - (1 << first)
    tests.append((number, tree["split_indices"][node], tree["split_conditions"][node], 0xFFFFFFFF & ~ruled_out))
    _walk(tree, tree["right_children"][node], number, leaves, tests)
