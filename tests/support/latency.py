"""Latency prediction for tests: a model that was fitted on synthetic latencies, and a training that gives it at once."""

from __future__ import annotations

from functools import cache

import numpy as np

from epp.api import Floats, Nowhere, Training, TrainingStatus
from epp_predictor import codec
from epp_predictor.fitting import Recipe
from epp_predictor.samples import OBSERVED, TIME
from epp_predictor.trainer import Trainer, TrainerSettings
from tests.support.latency_world import draw

_KEPT = 1000


@cache
def model(*, trees: int = 10) -> bytes:
    """A model of both targets for endpoints at rest and under load, encoded. So few trees are fitted fast; as many as usual
    are `Recipe().trees`."""
    chance = np.random.default_rng(0)
    busy = draw(1400, chance, endpoints=4)
    resting = draw(100, chance, endpoints=4, load=0.0, oldest_s=2.0)
    rows = np.vstack([busy.samples(), resting.samples()])
    rows[:, TIME] = 0.01 * chance.permutation(len(rows))
    trainer = Trainer(TrainerSettings(recipe=Recipe(trees=trees)))
    trainer.add(rows, 15.0)
    snapshot = trainer.train(15.0).snapshot
    assert snapshot is not None
    return codec.encode(snapshot)


class Taught:
    """A training whose next model is `ready`; keeps the latest samples."""

    def __init__(self, in_use: bytes, ready: bytes | None) -> None:
        self.in_use = in_use
        self.ready = ready
        self.samples: list[Floats] = []
        self.closed = 0
        self.outcomes: dict[str, int] = {}

    @property
    def status(self) -> TrainingStatus:
        return TrainingStatus(is_running=not self.closed, sent=len(self.samples), outcomes=dict(self.outcomes))

    def send(self, sample: Floats) -> None:
        self.samples.append(sample)
        del self.samples[:-_KEPT]

    def poll(self) -> bytes | None:
        ready, self.ready = self.ready, None
        return ready

    def close(self) -> None:
        self.closed += 1

    def observed(self, target: str) -> list[float]:
        """Latencies of this target in the samples."""
        values = [sample.item(OBSERVED[target]) for sample in self.samples]
        return [v for v in values if v == v]


class School(Nowhere):
    """An outside with `Taught` trainings, in the order in which they were begun."""

    def __init__(self, ready: bytes | None = None) -> None:
        self.ready = ready
        self.trainings: list[Taught] = []

    def train(self, in_use: bytes = b"") -> Training:
        self.trainings.append(Taught(in_use, self.ready))
        return self.trainings[-1]
