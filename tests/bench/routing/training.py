"""Training of the latency predictor on the virtual clock: the real trainer, fitted when it is due, without a process."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import numpy as np

from epp.api import Floats, Nowhere, Training, TrainingStatus
from epp_predictor import codec
from epp_predictor.samples import OBSERVED, TIME
from epp_predictor.trainer import Trainer, TrainerSettings

_PAUSE_S: Final = 5.0  # between two fits while something drifts: more often costs more time than the rest of a run


class InlineTraining:
    """Implements `epp.api.Training`. With `poisoned` every sample is wrong, by a factor of its own."""

    def __init__(self, clock: Callable[[], float], *, poisoned_from_s: float, seed: int) -> None:
        self._clock = clock
        self._trainer = Trainer(TrainerSettings(drift_pause_s=_PAUSE_S))
        self._samples: list[Floats] = []
        self._poisoned_from_s = poisoned_from_s
        self._chance = random.Random(seed)
        self._fits = 0

    @property
    def status(self) -> TrainingStatus:
        return TrainingStatus(is_running=True, fits=self._fits, samples=self._trainer.samples)

    def send(self, sample: Floats) -> None:
        mine = sample.copy()
        mine[TIME] = self._clock()
        if self._clock() >= self._poisoned_from_s:
            for place in OBSERVED.values():
                mine[place] *= 10.0 ** self._chance.uniform(-1.0, 1.0)
        self._samples.append(mine)

    def poll(self) -> bytes | None:
        now_s = self._clock()
        if self._samples:
            self._trainer.add(np.array(self._samples), now_s)
            self._samples.clear()
        reason = self._trainer.due(now_s)
        if not reason:
            return None
        self._fits += 1
        snapshot = self._trainer.train(now_s, reason).snapshot
        return None if snapshot is None else codec.encode(snapshot)

    def close(self) -> None:
        self._samples.clear()


class SimulatedOutside(Nowhere):
    """The outside of a simulation: only training is there."""

    def __init__(self, clock: Callable[[], float], *, poisoned_from_s: float, seed: int) -> None:
        self._training = InlineTraining(clock, poisoned_from_s=poisoned_from_s, seed=seed)

    def train(self, in_use: bytes = b"") -> Training:
        return self._training
