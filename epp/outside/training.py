"""The training process as plugins see it: samples and models as bytes, and an end that nobody waits for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Final

from epp.api import OutsideError, TrainingStatus
from epp.api.fleet import Floats
from epp_predictor import codec
from epp_predictor.process import TrainingProcess

_MISSING: Final = "XGBoost is not installed (pip install xgboost-cpu)"


class TrainingWorker:
    """Implements `epp.api.Training`. `ended` is given a function that ends the process, which takes up to two seconds."""

    def __init__(self, in_use: bytes, *, ended: Callable[[Callable[[], None]], object]) -> None:
        """Raises OutsideError."""
        if importlib.util.find_spec("xgboost") is None:
            raise OutsideError(_MISSING)
        try:
            self._process = TrainingProcess(in_use=codec.decode(in_use) if in_use else None)
            self._process.start()
        except (codec.BadSnapshot, OSError) as error:
            raise OutsideError(f"the training process does not start: {error}") from error
        self._ended = ended
        self._is_closed = False

    @property
    def status(self) -> TrainingStatus:
        s = self._process.status
        return TrainingStatus(
            is_running=s.is_running,
            pid=s.pid,
            restarts=s.restarts,
            sent=s.sent,
            samples=s.samples,
            refused=s.refused,
            fits=s.fits,
            last_fit_s=s.last_fit_s,
            last_reason=s.last_reason,
            outcomes=dict(s.outcomes),
            last={target: f"{outcome.result}: {outcome.text}" for target, outcome in s.last.items()},
        )

    def send(self, sample: Floats) -> None:
        self._process.send(sample)

    def poll(self) -> bytes | None:
        return None if self._is_closed or self._process.poll() is None else self._process.published

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._ended(self._process.close)
