"""Trees in numpy say what XGBoost says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_predictor.features import COUNT
from epp_predictor.fitting import Recipe, boosted_json
from epp_predictor.flatten import flatten
from epp_predictor.forest import MOST_LEAVES, Forest, Trees, watch


def boosted(seed: int, *, rows: int = 800, recipe: Recipe | None = None) -> tuple[bytearray, np.ndarray]:
    """A model of random data and the features it was fitted on, candidates by features."""
    chance = np.random.default_rng(seed)
    features = (chance.gamma(1.0, 10.0, (rows, COUNT)) * (chance.random((rows, COUNT)) < 0.8)).round(1)
    residual = np.sin(features[:, 0]) + features[:, 1] * features[:, 2] / 300 + chance.normal(0, 0.1, rows)
    recipe = recipe or Recipe(trees=30, least_rows_per_leaf=3)
    return boosted_json(features, residual, np.ones(rows), recipe), features


def said_by_xgboost(model: bytearray, features: np.ndarray) -> np.ndarray:
    return xgboost.Booster(model_file=model).predict(xgboost.DMatrix(features.astype(np.float32)), output_margin=True)


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(trees=60, depth=5, least_rows_per_leaf=1), Recipe(trees=3, depth=1)]
)
def test_equal_to_xgboosts_own_predictions(recipe: Recipe) -> None:
    model, features = boosted(1, recipe=recipe)

    sums = Forest([flatten(model)]).sums(features.T)

    np.testing.assert_allclose(sums[0], said_by_xgboost(model, features), rtol=2e-5, atol=2e-6)


def test_values_at_a_threshold_go_where_xgboost_sends_them() -> None:
    model, features = boosted(2)
    trees = flatten(model)
    at = np.repeat(features[:1], len(trees.threshold), axis=0).astype(np.float32)
    at[np.arange(len(at)), trees.feature] = trees.threshold
    just_under = at.copy()
    just_under[np.arange(len(at)), trees.feature] = np.nextafter(trees.threshold, np.float32(-1))
    both = np.maximum(np.concatenate((at, just_under)), 0)

    sums = Forest([trees]).sums(both.T.astype(float))

    np.testing.assert_allclose(sums[0], said_by_xgboost(model, both), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("beside", [Recipe(trees=7, depth=2), Recipe(trees=7, depth=5, least_rows_per_leaf=1)])
def test_a_watch_tells_whether_any_feature_is_out_of_its_range(beside: Recipe) -> None:
    watched = np.arange(COUNT, dtype=np.int32)
    low, high = np.linspace(0, 7, COUNT), np.linspace(7, 1e9, COUNT)
    features = np.repeat(np.array([low, high, (low + high) / 2]), 2 * COUNT, axis=0)
    is_outside = np.zeros(len(features), dtype=bool)
    for row, feature in enumerate([*range(COUNT)] * 3):
        features[2 * row, feature] = np.nextafter(np.float32(low[feature]), np.float32(-1)).clip(0)
        features[2 * row + 1, feature] = np.nextafter(np.float32(high[feature]), np.float32(np.inf))
        is_outside[2 * row], is_outside[2 * row + 1] = low[feature] > 0, True

    sums = Forest([flatten(boosted(5, recipe=beside)[0]), watch(watched, low, high)]).sums(features.T)

    assert ((sums[1] > 0) == is_outside).all()
    assert is_outside.sum() > 80
    assert not is_outside.all()


def test_targets_are_evaluated_together_as_alone() -> None:
    (one, features), (other, _) = boosted(3), boosted(4, recipe=Recipe(trees=7, depth=2))

    together = Forest([flatten(one), flatten(other)]).sums(features.T)

    alone = [Forest([flatten(m)]).sums(features.T)[0] for m in (one, other)]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_trees_that_test_nothing_add_their_one_leaf() -> None:
    model, features = boosted(5, recipe=Recipe(trees=2, least_rows_per_leaf=10_000))

    sums = Forest([flatten(model)]).sums(features.T)

    np.testing.assert_allclose(sums[0], said_by_xgboost(model, features), rtol=1e-5)


def test_more_leaves_than_fit_are_refused() -> None:
    model, _ = boosted(6)
    deep = xgboost.train({"max_depth": 6, "min_child_weight": 0, "nthread": 1}, xgboost.DMatrix(*_noise()), 1)

    with pytest.raises(ValueError, match=r"trees\[0\]: expected at most 32 leaves, got \d+"):
        flatten(deep.save_raw("json"))
    assert flatten(model).leaves.shape[1] == MOST_LEAVES


def _noise() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    return chance.random((2000, 3)), chance.random(2000)


@pytest.mark.parametrize(
    "changed",
    [
        {"tree": np.array([9], dtype=np.int32)},
        {"feature": np.array([-1], dtype=np.int32)},
        {"threshold": np.array([np.nan], dtype=np.float32)},
        {"survivors": np.array([1, 2], dtype=np.uint32)},
        {"leaves": np.full((1, MOST_LEAVES), np.inf, dtype=np.float32)},
        {"leaves": np.zeros((1, 3), dtype=np.float32)},
    ],
    ids=lambda c: f"{next(iter(c))}",
)
def test_arrays_that_make_no_trees_are_refused(changed: dict[str, Any]) -> None:
    sound = {
        "tree": np.zeros(1, dtype=np.int32),
        "feature": np.zeros(1, dtype=np.int32),
        "threshold": np.ones(1, dtype=np.float32),
        "survivors": np.array([2], dtype=np.uint32),
        "leaves": np.zeros((1, MOST_LEAVES), dtype=np.float32),
    }
    Trees(**sound)

    with pytest.raises(ValueError, match="trees: "):
        Trees(**{**sound, **changed})


# --- any trees at all, walked by hand ------------------------------------------------------------------------------------

# A leaf is its value; a test is (feature, threshold, left, right). A threshold under 0 is reached by everything.
_NODES = st.recursive(
    st.floats(-2, 2, width=32),
    lambda child: st.tuples(st.integers(0, 3), st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.5]), child, child),
    max_leaves=12,
)


def as_json(trees: list[Any]) -> bytes:
    """In XGBoost's layout."""
    return json.dumps(
        {
            "learner": {
                "learner_model_param": {"base_score": "[2.5E-1]"},
                "gradient_booster": {"model": {"trees": [laid_out(tree) for tree in trees]}},
            }
        }
    ).encode()


def laid_out(root: Any) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {
        name: [] for name in ("left_children", "right_children", "split_indices", "split_conditions", "split_type")
    }

    def add(node: Any) -> int:
        number = len(made["split_type"])
        is_leaf = isinstance(node, float)
        for name, value in zip(made, (-1, -1, 0 if is_leaf else node[0], node if is_leaf else node[1], 0), strict=True):
            made[name].append(value)
        if not is_leaf:
            made["left_children"][number] = add(node[2])
            made["right_children"][number] = add(node[3])
        return number

    add(root)
    return made


def walked(node: Any, values: np.ndarray) -> float:
    while not isinstance(node, float):
        feature, threshold, left, right = node
        node = left if values[feature] < threshold else right
    return node


@settings(max_examples=200)
@given(trees=st.lists(_NODES, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_any_trees_say_what_walking_them_says(trees: list[Any], seed: int) -> None:
    chance = np.random.default_rng(seed)
    features = chance.choice([0.0, 0.25, 0.5, 1.0, 2.0, 2.5, 9.0], size=(6, COUNT))

    sums = Forest([flatten(as_json(trees))]).sums(features.T)

    wanted = [0.25 + sum(walked(tree, row) for tree in trees) for row in features]
    np.testing.assert_allclose(sums[0], wanted, rtol=1e-4, atol=1e-5)
