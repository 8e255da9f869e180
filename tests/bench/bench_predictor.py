"""What latency prediction costs: `python -m tests.bench.bench_predictor [--lag]`.

Predicting TTFT and TPOT (median and 90 % interval) for 8 to 512 candidates, keeping a decision, observing, taking a new
model. Least, median and 99th percentile of single calls, each of the quietest of ten rounds, in us of this thread's CPU
time: of wall time, the 99th percentile of a busy machine tells how long others held the core.

`--lag`: how late an event loop wakes up while the training process fits: every ten seconds as by default, every second,
and as often as it looks for samples.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from epp_predictor import Predictor, ProcessSettings, Snapshot, TrainerSettings, TrainingProcess, codec
from epp_predictor.features import COLUMN, new_features
from epp_predictor.samples import TIME
from epp_predictor.trainer import Trainer
from tests.bench.loop_lag import lag_ms
from tests.support.latency_world import draw

CALLS: Final = 3000
ROUNDS: Final = 10
LAG_S: Final = 15.0


def rows(count: int, seed: int) -> np.ndarray:
    made = draw(count, np.random.default_rng(seed)).samples()
    made[:, TIME] = time.time() - 0.01 * np.arange(count)[::-1]
    return made


def trained() -> Snapshot:
    trainer = Trainer()
    trainer.add(rows(6000, 0), time.time())
    snapshot = trainer.train(time.time()).snapshot
    assert snapshot is not None
    return snapshot


def timed(call: Callable[[], object], *, calls: int = CALLS) -> tuple[float, float, float]:
    """Least, median and 99th percentile of single calls, in us, each the least of the rounds'."""
    found = []
    for _ in range(ROUNDS):
        took = np.empty(calls // ROUNDS)
        for number in range(len(took)):
            before = time.thread_time_ns()
            call()
            took[number] = time.thread_time_ns() - before
        found.append((took.min(), *np.percentile(took, [50, 99])))
    least, median, p99 = (np.min(found, axis=0) / 1e3).tolist()
    return least, median, p99


def show(what: str, times: tuple[float, float, float]) -> None:
    print(f"{what:<58}" + "".join(f"{t:10.1f}" for t in times))


def costs() -> None:
    snapshot = trained()
    predictor = Predictor()
    for number in range(512):
        predictor.endpoint(f"s{number}")
    predictor.publish(snapshot)
    print(f"{'us':<58}{'least':>10}{'median':>10}{'p99':>10}")
    for count in (8, 32, 128, 512):
        requests = draw(count, np.random.default_rng(1))
        features, endpoints = np.asfortranarray(requests.features), np.arange(1, count + 1)
        columns = [features[:, number].copy() for number in range(features.shape[1])]

        def fill(count: int = count, columns: list[np.ndarray] = columns) -> None:
            matrix = new_features(count)
            for number, values in enumerate(columns):
                matrix[:, number] = values

        def predict(features: np.ndarray = features, endpoints: np.ndarray = endpoints) -> None:
            prediction = predictor.predict(features, endpoints)
            for estimate in (prediction.ttft, prediction.tpot):
                assert estimate is not None
                _ = estimate.ms, estimate.low_ms, estimate.high_ms

        show(f"{count} candidates: TTFT and TPOT with intervals", timed(predict))
        show(f"{count} candidates: the matrix from {len(COLUMN)} columns", timed(fill))
    prediction = predictor.predict(features, endpoints)
    decision = prediction.keep(3)
    show("keep a decision", timed(lambda: prediction.keep(3)))
    show(
        "observe TTFT and TPOT of a finished request",
        timed(lambda: predictor.observe(decision, ttft_ms=90, tpot_ms=12)),
    )
    data = codec.encode(snapshot)
    show(f"read a snapshot of {len(data):,} bytes", timed(lambda: codec.decode(data), calls=200))
    show("publish it", timed(lambda: predictor.publish(snapshot), calls=200))


async def lags(interval_s: float | None) -> None:
    """While samples stream in and the training process fits every `interval_s`; None: without a training process."""
    trainer = TrainerSettings(interval_s=interval_s or 0.0, fewest_new=1, newest=20_000, max_age_s=1e9)
    training = TrainingProcess(ProcessSettings(trainer=trainer))
    predictor = Predictor(on_sample=training.send)
    requests = draw(32, np.random.default_rng(3))

    async def serve() -> None:
        while True:
            prediction = predictor.predict(requests.features, requests.endpoints)
            predictor.observe(prediction.keep(0), ttft_ms=float(requests.ttft_ms[0]), tpot_ms=12.0)
            if (snapshot := training.poll()) is not None:
                predictor.publish(snapshot)
            await asyncio.sleep(0.01)

    serving = asyncio.create_task(serve())
    what = "no training process"
    if interval_s is not None:
        training.start()
        for row in rows(10_000, 2):
            training.send(row)
        async with asyncio.timeout(60):
            await has_fitted(training)
    before = training.status.fits
    late = await lag_ms(LAG_S)
    if interval_s is not None:
        what = f"{training.status.fits - before} fits of {training.status.samples} samples in {LAG_S:.0f} s"
    print(f"{what:<58}" + "".join(f"{ms:10.2f}" for ms in (*np.percentile(late, [50, 99, 99.9]), late.max())))
    serving.cancel()
    training.close()


async def has_fitted(training: TrainingProcess) -> None:
    while True:
        if training.status.fits:
            return
        await asyncio.sleep(0.05)


def main() -> None:
    costs()
    if "--lag" in sys.argv:
        print(f"\n{'event-loop lag, ms':<58}{'median':>10}{'p99':>10}{'p99.9':>10}{'most':>10}")
        for interval_s in (None, 10.0, 1.0, 0.0):
            asyncio.run(lags(interval_s))


if __name__ == "__main__":
    main()
