"""Trees for people to look at: the same trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epp_predictor.dump import dumped
from epp_predictor.features import NAMES
from epp_predictor.flatten import flatten
from epp_predictor.forest import Forest
from tests.unit.predictor.test_forest import boosted


def walked(node: dict[str, Any], values: np.ndarray) -> float:
    while "leaf" not in node:
        is_left = values[NAMES.index(node["split"])] < np.float32(node["split_condition"])
        wanted = node["yes" if is_left else "no"]
        node = next(child for child in node["children"] if child["nodeid"] == wanted)
    return float(node["leaf"])


@pytest.mark.parametrize("seed", range(3))
def test_walking_the_dump_says_what_the_forest_says(seed: int) -> None:
    model, features = boosted(seed, rows=400)
    trees = flatten(model)

    shown = dumped(trees)

    rows = features[:40].astype(np.float32)
    wanted = Forest([trees]).sums(rows.T.astype(float))[0]
    np.testing.assert_allclose([sum(walked(t, row) for t in shown) for row in rows], wanted, rtol=1e-4, atol=1e-5)
