"""What the training process hands over: models, how their newest predictions were off, and endpoint names.
Immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from epp_predictor.calibration import CalibrationState
from epp_predictor.model import TargetModel


@dataclass(frozen=True, slots=True, eq=False)
class TargetSnapshot:
    """One target: its model, and its calibration on samples that the model was not fitted on."""

    model: TargetModel
    calibration: CalibrationState
    version: int
    """Grows with each published model of this target."""
    error: float
    """Mean absolute log error on the newest samples before it was published: 0.1 is about 10 %."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    targets: Mapping[str, TargetSnapshot]
    """By `ttft`, `tpot`; at least one."""
    created_at_s: float
    """Wall-clock time, seconds since the epoch."""
    endpoints: Mapping[str, int] = field(default_factory=dict)
    """Numbers of endpoints by name, for those who keep the snapshot beyond the process that gave the numbers."""

    @property
    def version(self) -> int:
        return sum(target.version for target in self.targets.values())
