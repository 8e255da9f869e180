"""A model of either kind as the services use it: what it predicts of each target, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Protocol

import numpy as np

from epp_predictor import codec
from epp_predictor.calibration import Calibration, CalibrationState
from epp_predictor.codec import BadSnapshot
from epp_predictor.features import COUNT, NAMES, Floats
from epp_predictor.model import Model, TargetModel
from epp_predictor.prior import TERMS
from epp_predictor.servers import ridge
from epp_predictor.servers.ridge import Ridge
from epp_predictor.servers.variables import Objectives
from epp_predictor.snapshot import Snapshot, TargetSnapshot

BOOTSTRAP_MS: Final = 10.0
"""What is said before anything was learnt, as by llm-d's predictor: a gateway that waits for readiness would else wait
for ever."""
_ONE_SIGMA: Final = (0.1587, 0.8413)
_BOUNDS: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """One target, per row, in ms."""

    ms: Floats
    uncertainty: Floats
    """Half the width of the interval that two of three requests are in."""
    low: Floats
    high: Floats


class ServedTarget(Protocol):
    """A model of one target."""

    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def fitted_at_s(self) -> float: ...
    def predict(self, features: Floats, objectives: Objectives) -> Predicted: ...
    def importance(self) -> dict[str, float]: ...
    def encode(self) -> bytes: ...


class Boosted:
    """Prior, trees and calibration."""

    kind = "xgboost"

    def __init__(self, target: str, snapshot: TargetSnapshot) -> None:
        self.target = target
        self.snapshot = snapshot
        self._model = Model({target: snapshot.model})
        self._calibration = Calibration.restored(snapshot.calibration)

    @property
    def version(self) -> int:
        return self.snapshot.version

    @property
    def samples(self) -> int:
        return self.snapshot.model.samples

    @property
    def fitted_at_s(self) -> float:
        return self.snapshot.model.fitted_at_s

    def predict(self, features: Floats, objectives: Objectives) -> Predicted:
        base = self._model.base_ms(features)[0][0]
        nobody = np.zeros(1, dtype=np.intp)
        factors = self._calibration.factors(nobody, (objectives.quantile, *_ONE_SIGMA, *_BOUNDS))[:, 0]
        asked = factors[0] if objectives.objective == "quantile" else self._calibration.mean_factors(nobody)[0]
        return Predicted(base * asked, base * (factors[2] - factors[1]) / 2, base * factors[3], base * factors[4])

    def importance(self) -> dict[str, float]:
        """Share of the trees' tests that read each feature."""
        trees = self.snapshot.model.trees
        if trees is None or not len(trees.feature):
            return dict.fromkeys(NAMES, 0.0)
        counts = np.bincount(trees.feature, minlength=COUNT) / len(trees.feature)
        return dict(zip(NAMES, counts.tolist(), strict=True))

    def encode(self) -> bytes:
        return codec.encode(Snapshot({self.target: self.snapshot}, self.fitted_at_s))


class RidgeTarget:
    """Bayesian ridge."""

    kind = "bayesian_ridge"

    def __init__(self, target: str, version: int, model: Ridge) -> None:
        self.target = target
        self.version = version
        self.model = model

    @property
    def samples(self) -> int:
        return self.model.samples

    @property
    def fitted_at_s(self) -> float:
        return self.model.fitted_at_s

    def predict(self, features: Floats, objectives: Objectives) -> Predicted:
        mean, deviation = self.model.predict(features)
        steps = NormalDist().inv_cdf(objectives.quantile) if objectives.objective == "quantile" else 0.0
        ms = np.maximum(mean + steps * deviation, 0.0)
        return Predicted(ms, deviation, np.maximum(mean - 2 * deviation, 0.0), mean + 2 * deviation)

    def importance(self) -> dict[str, float]:
        return self.model.coefficients()

    def encode(self) -> bytes:
        return ridge.encode_ridge(self.target, self.version, self.model)


def bootstrap(target: str, now_s: float) -> Boosted:
    """A constant; its version is 0."""
    weights = np.zeros(len(TERMS))
    weights[TERMS.index("constant")] = BOOTSTRAP_MS
    model = TargetModel(weights, None, np.zeros(COUNT), np.zeros(COUNT), 0, now_s)
    return Boosted(target, TargetSnapshot(model, CalibrationState(), 0, 0.0))


def decode(data: bytes, target: str) -> ServedTarget:
    """A model of `target` from its bytes. Raises BadSnapshot."""
    if data[:7] == ridge.MAGIC[:7]:
        found, version, model = ridge.decode_ridge(data)
        if found != target:
            raise BadSnapshot(f"expected a model of {target}, got one of {found}")
        return RidgeTarget(target, version, model)
    snapshot = codec.decode(data)
    if target not in snapshot.targets:
        raise BadSnapshot(f"expected a model of {target}, got one of {', '.join(snapshot.targets)}")
    return Boosted(target, snapshot.targets[target])
