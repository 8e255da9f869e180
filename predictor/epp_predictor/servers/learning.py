"""How the training service learns: boosted trees in the training process, ridge regression in a thread."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Final, Protocol

import numpy as np

from epp_predictor.features import Floats
from epp_predictor.prior import TARGETS
from epp_predictor.process import ProcessSettings, TrainingProcess
from epp_predictor.samples import FIRST_FEATURE, OBSERVED
from epp_predictor.servers.ridge import fit_ridge
from epp_predictor.servers.serving import Boosted, RidgeTarget, ServedTarget
from epp_predictor.servers.store import Store
from epp_predictor.servers.variables import TrainingSettings
from epp_predictor.snapshot import Snapshot
from epp_predictor.trainer import TrainerSettings, unlearnable

Publish = Callable[[str, ServedTarget], None]

_POLL_S: Final = 0.1


class Learner(Protocol):
    def send(self, rows: Floats) -> None:
        """Samples that have come."""

    def flush(self) -> None:
        """Forget samples."""

    def status(self) -> dict[str, object]:
        """For people: what came of the fits."""

    async def run(self) -> None:
        """Learn until cancelled."""


class BoostedLearner:
    def __init__(self, settings: TrainingSettings, seeds: dict[str, Boosted], publish: Publish) -> None:
        trainer = TrainerSettings(
            interval_s=settings.interval_s,
            fewest_samples=settings.fewest_fresh,
            fewest_to_replace=settings.fewest_to_replace,
            fewest_new=min(settings.fewest_fresh, 50),
            max_age_s=settings.max_age_s,
            per_stratum=settings.per_stratum,
            newest=settings.most_test,
            capacity=100_000,
            held_out_share=settings.test_share,
            most_held_out=settings.most_test,
        )
        in_use = Snapshot({t: model.snapshot for t, model in seeds.items()}, time.time()) if seeds else None
        process = ProcessSettings(trainer, capacity=65_536, tick_s=min(0.25, settings.interval_s))
        self.process = TrainingProcess(process, in_use=in_use)
        self._versions = {target: model.version for target, model in seeds.items()}
        self._publish = publish

    def send(self, rows: Floats) -> None:
        for row in rows:
            self.process.send(row)

    def flush(self) -> None:
        self.process.flush()

    def status(self) -> dict[str, object]:
        return asdict(self.process.status)

    async def run(self) -> None:
        if not self.process.status.pid:
            self.process.start()
        try:
            while True:
                self._take(self.process.poll())
                await asyncio.sleep(_POLL_S)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.process.close)
            raise

    def _take(self, snapshot: Snapshot | None) -> None:
        for target, published in (snapshot.targets if snapshot is not None else {}).items():
            if self._versions.get(target) != published.version:
                self._versions[target] = published.version
                self._publish(target, Boosted(target, published))


class RidgeLearner:
    def __init__(
        self, settings: TrainingSettings, store: Store, seeds: dict[str, RidgeTarget], publish: Publish
    ) -> None:
        self._settings = settings
        self._store = store
        self._in_use = seeds
        self._publish = publish
        self._new = 0
        self._results: Counter[str] = Counter()

    def send(self, rows: Floats) -> None:
        self._new += len(rows)

    def flush(self) -> None:
        self._new = 0

    def status(self) -> dict[str, object]:
        return {"outcomes": dict(self._results)}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            if not self._new or not self._has_enough():
                continue
            self._new = 0
            self._store.settle(time.time())
            for target in TARGETS:
                fitted_on, newest = self._store.parts(target)
                if len(fitted_on) + len(newest) < self._fewest(target):
                    continue
                before = self._in_use.get(target)
                model = await asyncio.to_thread(learn_ridge, target, fitted_on, newest, before)
                self._results["rejected" if model is None else "published"] += 1
                if model is not None:
                    self._in_use[target] = model
                    self._publish(target, model)
            await asyncio.sleep(self._settings.interval_s)

    def _has_enough(self) -> bool:
        return self._new + len(self._store.rows) >= min(self._fewest(target) for target in TARGETS)

    def _fewest(self, target: str) -> int:
        return self._settings.fewest_to_replace if target in self._in_use else self._settings.fewest_fresh


def learn_ridge(target: str, fitted_on: Floats, newest: Floats, in_use: RidgeTarget | None) -> RidgeTarget | None:
    """A model that beats the one in use on the newest samples, or None."""
    judging = newest if len(newest) else fitted_on
    if unlearnable(fitted_on, judging, target):
        return None
    try:
        model = fit_ridge(fitted_on[:, FIRST_FEATURE:], fitted_on[:, OBSERVED[target]], time.time())
    except (ValueError, np.linalg.LinAlgError):
        return None
    candidate = RidgeTarget(target, 1 if in_use is None else in_use.version + 1, model)
    if in_use is not None and not _error(candidate, judging) < _error(in_use, judging):
        return None
    return candidate


def _error(model: RidgeTarget, rows: Floats) -> float:
    mean, _ = model.model.predict(rows[:, FIRST_FEATURE:])
    actual = rows[:, OBSERVED[model.target]]
    return float(np.minimum(np.abs(np.log(np.maximum(mean, 0.01) / actual)), 1.0).mean())
