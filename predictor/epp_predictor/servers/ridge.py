"""Bayesian ridge regression: latency as a weighted sum of features with a Gaussian error, in milliseconds.

The weight of the data and of the prior are found by maximising the evidence (MacKay, Neural Computation 4, 1992;
Bishop, Pattern Recognition and Machine Learning, 3.5). Small and quick; knows no interactions and extrapolates on
straight lines.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from epp_predictor.codec import BadSnapshot
from epp_predictor.features import COLUMN, COUNT, NAMES, Floats, clean

MAGIC: Final = b"EPPRIDG\x01"
_ROUNDS: Final = 100
_PREFIX: Final = COLUMN["prefix_cache_score"]
_INPUT: Final = COLUMN["input_token_length"]
_WAITING: Final = COLUMN["num_request_waiting"]

NAMES_OF_COLUMNS: Final = (*NAMES, "effective_input_tokens", "is_queued")
_WIDTH: Final = len(NAMES_OF_COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """One target. Mean and covariance are of weights for standardised columns."""

    middle: Floats
    scale: Floats
    weights: Floats
    covariance: Floats
    intercept: float
    noise_variance: float
    samples: int
    fitted_at_s: float

    def __post_init__(self) -> None:
        shapes = (self.middle.shape, self.scale.shape, self.weights.shape, self.covariance.shape)
        if shapes != ((_WIDTH,), (_WIDTH,), (_WIDTH,), (_WIDTH, _WIDTH)):
            raise ValueError("ridge: arrays do not fit together")
        arrays = (self.middle, self.scale, self.weights, self.covariance)
        numbers = (self.intercept, self.noise_variance, self.fitted_at_s)
        if not all(np.isfinite(a).all() for a in arrays) or not np.isfinite(numbers).all():
            raise ValueError("ridge: a number is not finite")
        if (self.scale <= 0).any() or self.noise_variance < 0:
            raise ValueError("ridge: a scale or the noise is not positive")

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean (not below 0) and standard deviation of the next observation, in ms. `features`: candidates by
        FEATURES."""
        standard = (_columns(features) - self.middle) / self.scale
        mean = np.maximum(standard @ self.weights + self.intercept, 0.0)
        variance = self.noise_variance + np.einsum("ij,jk,ik->i", standard, self.covariance, standard)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def coefficients(self) -> dict[str, float]:
        """Milliseconds per unit of each column, and `intercept`."""
        slopes = self.weights / self.scale
        named = dict(zip(NAMES_OF_COLUMNS, slopes.tolist(), strict=True))
        return {**named, "intercept": self.intercept - float(slopes @ self.middle)}


def _columns(features: Floats) -> Floats:
    cleaned = clean(features)
    made = np.empty((cleaned.shape[1], _WIDTH))
    made[:, :COUNT] = cleaned.T
    made[:, COUNT] = (1 - cleaned[_PREFIX]) * cleaned[_INPUT]
    made[:, COUNT + 1] = cleaned[_WAITING] > 0
    return made


def fit_ridge(features: Floats, observed_ms: Floats, now_s: float) -> Ridge:
    """Raises ValueError without rows."""
    if not len(observed_ms):
        raise ValueError("ridge: no samples to fit")
    columns = _columns(features)
    middle, spread = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    standard = (columns - middle) / scale
    intercept = float(observed_ms.mean())
    wanted = observed_ms - intercept
    values, vectors = np.linalg.eigh(standard.T @ standard)
    values = np.maximum(values, 0.0)
    moments = vectors.T @ (standard.T @ wanted)
    total = float(wanted @ wanted)
    data, prior = 1.0 / max(float(wanted.var()), 1e-12), 1.0
    for _ in range(_ROUNDS):
        rotated = data * moments / (prior + data * values)
        free = float((data * values / (prior + data * values)).sum())
        error = max(total - 2 * float(rotated @ moments) + float((rotated**2) @ values), 1e-12 * total + 1e-12)
        before = data, prior
        prior = (free + 1e-6) / (float(rotated @ rotated) + 1e-6)
        data = (max(len(wanted) - free, 1e-3) + 1e-6) / (error + 1e-6)
        if np.allclose(before, (data, prior), rtol=1e-6):
            break
    weights = vectors @ (data * moments / (prior + data * values))
    covariance = (vectors / (prior + data * values)) @ vectors.T
    return Ridge(middle, scale, weights, covariance, intercept, 1.0 / data, len(observed_ms), now_s)


# --- bytes ---------------------------------------------------------------------------------------------------------------


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    target: str
    version: int
    columns: list[str]
    middle: list[float]
    scale: list[float]
    weights: list[float]
    covariance: list[list[float]]
    intercept: float
    noise_variance: float
    samples: int
    fitted_at_s: float


def encode_ridge(target: str, version: int, ridge: Ridge) -> bytes:
    """JSON behind a magic, before a checksum."""
    arrays = {name: getattr(ridge, name).tolist() for name in ("middle", "scale", "weights", "covariance")}
    numbers = {name: getattr(ridge, name) for name in ("intercept", "noise_variance", "samples", "fitted_at_s")}
    stored = _Stored(target=target, version=version, columns=list(NAMES_OF_COLUMNS), **arrays, **numbers)
    body = MAGIC + msgspec.json.encode(stored)
    return body + hashlib.sha256(body).digest()


def decode_ridge(data: bytes) -> tuple[str, int, Ridge]:
    """Target, version, model. Raises BadSnapshot."""
    if data[:8] != MAGIC or len(data) < 40:
        raise BadSnapshot("not a ridge model of this version")
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise BadSnapshot("the checksum does not match: the file is cut short or damaged")
    try:
        s = msgspec.json.decode(data[8:-32], type=_Stored)
        if s.columns != list(NAMES_OF_COLUMNS):
            raise BadSnapshot("it was trained with other features; train again with this version")
        middle, scale, weights, covariance = (
            np.array(a, dtype=float) for a in (s.middle, s.scale, s.weights, s.covariance)
        )
        ridge = Ridge(middle, scale, weights, covariance, s.intercept, s.noise_variance, s.samples, s.fitted_at_s)
    except (msgspec.DecodeError, ValueError) as error:
        raise error if isinstance(error, BadSnapshot) else BadSnapshot(f"damaged: {error}") from error
    return s.target, s.version, ridge
