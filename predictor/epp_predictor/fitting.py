"""Fits the model of one target to finished requests. Only this module imports XGBoost, and only when trees are
fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import Floats, clean
from epp_predictor.flatten import flatten
from epp_predictor.forest import Trees
from epp_predictor.model import TargetModel
from epp_predictor.prior import LEAST_MS, fit_prior, terms


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is fitted."""

    trees: int = 50
    depth: int = 4
    rate: float = 0.15
    bins: int = 32
    """Thresholds per feature at most, which bounds the tables that a forest looks up."""
    least_rows_per_leaf: int = 20
    l2: float = 5.0
    fewest_for_trees: int = 300
    """With fewer samples the prior alone predicts better (latency data are noisy)."""
    half_life_s: float = 900.0
    """A sample of this age counts half."""

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 5:
            raise ValueError(f"depth: expected 1 to 5 (at most 32 leaves), got {self.depth}")


ENDPOINT_TRUST: Final = 10.0
_ROUNDS: Final = 2


def fit(
    features: Floats,
    observed_ms: Floats,
    endpoints: NDArray[np.intp],
    age_s: Floats,
    *,
    target: str,
    recipe: Recipe,
    now_s: float,
) -> TargetModel:
    """Rows are finished requests: features (rows by FEATURES), what was observed, on which endpoint, how long ago.

    What an endpoint has of its own is taken out before the rest is fitted, so that one slow endpoint does not make all
    of them look slower; calibration puts it back. Raises ValueError without rows.
    """
    if not len(observed_ms):
        raise ValueError(f"{target}: no samples to fit")
    cleaned = clean(features)
    term_rows = terms(cleaned)
    importance = np.exp2(-np.maximum(age_s, 0.0) / recipe.half_life_s)
    log_observed = np.log(observed_ms)
    offset = np.zeros(len(observed_ms))
    for _ in range(_ROUNDS):
        weights = fit_prior(term_rows, np.exp(log_observed - offset), importance, target)
        residual = log_observed - np.log(np.maximum(weights @ term_rows, LEAST_MS))
        offset = endpoint_offsets(residual, endpoints, importance)[endpoints]
    trees = None
    if len(observed_ms) >= recipe.fewest_for_trees:
        trees = boost(cleaned.T, residual - offset, importance, recipe)
    return TargetModel(weights, trees, cleaned.min(axis=1), cleaned.max(axis=1), len(observed_ms), now_s)


def endpoint_offsets(residual: Floats, endpoints: NDArray[np.intp], importance: Floats) -> Floats:
    """Per endpoint number, how much its residuals differ from all of them; shrunk towards 0 for endpoints with few
    rows."""
    middle = float(np.average(residual, weights=importance))
    total = np.bincount(endpoints, weights=importance)
    apart = np.bincount(endpoints, weights=importance * (residual - middle))
    offsets: Floats = apart / (total + ENDPOINT_TRUST)
    return offsets


def boost(features: Floats, residual: Floats, importance: Floats, recipe: Recipe) -> Trees:
    """Trees for the residuals, by XGBoost on one thread (more threads are slower on a busy machine, by up to a hundred
    times)."""
    return flatten(boosted_json(features, residual, importance, recipe))


def boosted_json(features: Floats, residual: Floats, importance: Floats, recipe: Recipe) -> bytearray:
    import xgboost

    data = xgboost.QuantileDMatrix(
        features.astype(np.float32), residual, weight=importance, max_bin=recipe.bins, nthread=1, missing=np.inf
    )
    parameters = {
        "objective": "reg:squarederror",
        "tree_method": "hist",
        "max_depth": recipe.depth,
        "max_bin": recipe.bins,
        "eta": recipe.rate,
        "lambda": recipe.l2,
        "min_child_weight": recipe.least_rows_per_leaf * float(importance.mean()),
        "base_score": 0.0,
        "nthread": 1,
        "verbosity": 0,
    }
    return bytearray(xgboost.train(parameters, data, recipe.trees).save_raw("json"))
