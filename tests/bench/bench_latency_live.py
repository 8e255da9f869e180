"""How long predictions take at worst in an EPP at work, and how late its event loop is while latencies are being learnt.

`python -m tests.bench.bench_latency_live`: one event loop (uvloop) with sessions, the director and the default profile with
prediction, a real training process beside it, and 200 streamed requests a second over 32 and over 128 endpoints, evenly
spaced, which teach it. Messages are those of a recorded conversation, so there are no sockets.

A prediction is all of `produce`: features, both latencies with their intervals, and what is published of them; `wall` is
what the clock said, `own` this thread's CPU time. For the lag see `loop_lag`. The process fits every ten seconds as by default,
or all the time.
"""

from __future__ import annotations

import asyncio
from itertools import count
from time import perf_counter, thread_time
from typing import Final

import numpy as np
import uvloop

from epp.api import Candidates, Floats, Handle, Nowhere, Request, Training, TrainingStatus
from epp.server.session import ExtProc, Session
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_predictor import ProcessSettings, TrainerSettings, TrainingProcess, codec
from tests.bench.bench_latency import MODEL, PROFILE
from tests.bench.bench_predictor import has_fitted, rows
from tests.bench.bench_request import conversations
from tests.bench.loop_lag import lag_ms
from tests.support.configs import HEAD
from tests.support.conversations import FOLDER
from tests.support.service import make_director

CONVERSATION: Final = FOLDER / "envoy-1.40" / "full_duplex_streamed-full_duplex_streamed" / "sse.txtpb"
RATE: Final = 200
SECONDS: Final = 15.0
_BETWEEN_MESSAGES_S: Final = 0.005
SAMPLES: Final = 10_000
"""That the process has at first, so that a fit takes as long as it does at work."""
ALWAYS: Final = 0.0
USUAL: Final = TrainerSettings().interval_s


class _Trained(Nowhere):
    """An outside whose training is a real process; a model is there at once."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self.trainings: list[_Process] = []

    def train(self, in_use: bytes = b"") -> Training:
        self.trainings.append(_Process(self._interval_s))
        return self.trainings[-1]


class _Process:
    """Implements `epp.api.Training`."""

    def __init__(self, interval_s: float) -> None:
        trainer = TrainerSettings(interval_s=interval_s, fewest_new=1, newest=2 * SAMPLES, max_age_s=1e9)
        self.process = TrainingProcess(ProcessSettings(trainer=trainer), in_use=codec.decode(MODEL))
        self.process.start()
        for row in rows(SAMPLES, 2):
            self.process.send(row)
        self._first: bytes | None = MODEL

    @property
    def status(self) -> TrainingStatus:
        return TrainingStatus(is_running=True, fits=self.process.status.fits)

    def send(self, sample: Floats) -> None:
        self.process.send(sample)

    def poll(self) -> bytes | None:
        first, self._first = self._first, None
        if first is not None:
            return first
        return None if self.process.poll() is None else self.process.published

    def close(self) -> None:
        self.process.close()


class Timed(PredictedLatencyProducer):
    """Keeps how long each prediction took: wall and CPU time, in µs."""

    type = "timed-latency-producer"

    def __init__(self, params: PredictedLatencyProducer.Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self.took_us: list[tuple[float, float]] = []

    def produce(self, request: Request, candidates: Candidates) -> None:
        before, own_before = perf_counter(), thread_time()
        super().produce(request, candidates)
        own_s = thread_time() - own_before
        self.took_us.append(((perf_counter() - before) * 1e6, own_s * 1e6))


async def figures(endpoints: int, interval_s: float) -> dict[str, float]:
    """Medians and 99th percentiles: predictions in µs, lag in ms."""
    outside = _Trained(interval_s)
    director = make_director(
        *[f"127.0.0.1:{8000 + i}" for i in range(endpoints)],
        config=f"{HEAD}plugins:\n- {{type: {Timed.type}}}{PROFILE}",
        plugins=(Timed,),
        outside=outside,
    )
    producer = director.pipeline.plugins[Timed.type]
    assert isinstance(producer, Timed)
    service = ExtProc(director, max_body_bytes=1 << 24)
    serving = asyncio.create_task(_serve(service, producer))
    (training,) = outside.trainings
    try:
        async with asyncio.timeout(60):
            await has_fitted(training.process)
        fits, warm_up = training.status.fits, len(producer.took_us)
        late = await lag_ms(SECONDS)
        took = np.array(producer.took_us[warm_up:])
        assert not serving.done()
        found = {"fits": float(training.status.fits - fits), "predictions": float(len(took))}
        for name, values in (("wall_us", took[:, 0]), ("own_us", took[:, 1]), ("lag_ms", late)):
            found[f"{name}_p50"], found[f"{name}_p99"] = np.percentile(values, [50, 99]).tolist()
        return found
    finally:
        serving.cancel()
        training.close()


async def _serve(service: ExtProc, producer: Timed) -> None:
    made = conversations(1000, CONVERSATION)
    loop = asyncio.get_running_loop()
    requests: set[asyncio.Task[None]] = set()
    started_s = loop.time()
    for number in count():
        request = asyncio.create_task(_request(service, made[number % len(made)]))
        requests.add(request)
        request.add_done_callback(requests.discard)
        if number % RATE == 0:
            producer.poll()
        await asyncio.sleep(max(0.0, started_s + number / RATE - loop.time()))


async def _request(service: ExtProc, messages: list[tuple[str, bytes]]) -> None:
    session = Session(service, lambda: None)
    for _, message in messages:
        session.receive(message)
        session.take()
        await asyncio.sleep(_BETWEEN_MESSAGES_S)
    session.close("OK")


def measured() -> dict[str, float]:
    """What is aimed at: predictions for 32 and 128 candidates, and the loop's lag while the process fits all the time."""
    found: dict[str, float] = {}
    for endpoints in (32, 128):
        seen = uvloop.run(figures(endpoints, ALWAYS))
        found |= {f"p99_{endpoints}_us": seen["wall_us_p99"], f"own_p99_{endpoints}_us": seen["own_us_p99"]}
        found["lag_p99_ms"] = max(found.get("lag_p99_ms", 0.0), seen["lag_ms_p99"])
    return found


def main() -> None:
    for interval_s in (USUAL, ALWAYS):
        for endpoints in (32, 128):
            seen = uvloop.run(figures(endpoints, interval_s))
            fits, predictions = seen.pop("fits"), seen.pop("predictions")
            print(f"{endpoints} endpoints: {fits:.0f} fits and {predictions:.0f} predictions in {SECONDS:.0f} s")
            for name, value in seen.items():
                print(f"{value:10.2f}  {name}")


if __name__ == "__main__":
    main()
