"""The EPP learns latencies from responses, in a real training process, and predicts those of the next requests."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from epp.api import (
    LATENCY_PREDICTION,
    LATENCY_RECORD,
    LatencyPrediction,
    LatencyRecord,
    Nowhere,
    Request,
    Termination,
    Training,
    data_key,
)
from epp.data.endpoint_spec import EndpointSpec
from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode, RequestHead, ResponseHead
from epp.outside import World
from epp.outside.training import TrainingWorker
from epp.sim import SimConfig, StepCost
from epp.sim.answers import Ask, Generation
from epp.sim.core import Core
from epp.state import StateDir
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_predictor.trainer import TrainerSettings
from tests.support.configs import HEAD
from tests.support.plugins import Clock
from tests.support.service import make_director
from tests.support.virtual_time import run_virtually

# Another process imports XGBoost, which takes a second, or twenty on a busy machine.
pytestmark = pytest.mark.timeout(400)

CONFIG = f"""{HEAD}
plugins: [{{type: queue-scorer}}, {{type: predicted-latency-producer}}]
schedulingProfiles: [{{name: default, plugins: [{{pluginRef: queue-scorer}}]}}]
"""
SERVERS = ("10.0.0.1:8000", "10.0.0.2:8000")
EVENT = b'data: {"object":"text_completion","choices":[{"index":0,"text":"a "}]}\n\n'
EVENT_STREAM = {"content-type": "text/event-stream"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


def producer_of(director: Director) -> PredictedLatencyProducer:
    producer = director.pipeline.plugins["predicted-latency-producer"]
    assert isinstance(producer, PredictedLatencyProducer)
    return producer


def state(director: Director) -> dict[str, object]:
    shown = producer_of(director).dump_state()
    assert isinstance(shown, dict)
    return shown


def training(director: Director, field: str) -> int:
    told = state(director)["training"]
    assert isinstance(told, dict)
    return int(told[field])


async def until(condition: Callable[[], bool], director: Director) -> None:
    async with asyncio.timeout(200):
        while not condition():
            producer_of(director).poll()
            await asyncio.sleep(0.02)


def has_learnt(director: Director) -> bool:
    """A model is there, and of all samples but a rest that is too small for another fit."""
    rest = training(director, "sent") - training(director, "samples")
    return bool(state(director)["trained"]) and rest < TrainerSettings().fewest_new


class Asked:
    """One streamed request, spoken without Envoy."""

    def __init__(self, director: Director, tokens: int) -> None:
        def suspend(*_: object) -> None:
            raise AssertionError("nothing has to wait")

        self.exchange = RequestExchange(director, suspend)
        duplex = BodyMode.FULL_DUPLEX_STREAMED
        named = {":method": "POST", ":path": "/v1/completions"}
        head = RequestHead(named, end_of_stream=False, request_body_mode=duplex, response_body_mode=duplex)
        self.body = json.dumps(
            {"model": "sim-model", "prompt": random.randbytes(2 * tokens).hex(), "stream": True, "max_tokens": 8}
        ).encode()
        destination = self.exchange.route(head, self.body)
        assert destination is not None
        self.destination = destination.value

    @property
    def request(self) -> Request:
        assert self.exchange.request is not None
        return self.exchange.request

    @property
    def record(self) -> LatencyRecord:
        found = self.request.data[data_key(LATENCY_RECORD)]
        assert isinstance(found, LatencyRecord)
        return found

    def begin(self) -> None:
        head = ResponseHead(EVENT_STREAM, status=200, end_of_stream=False)
        self.exchange.response_headers(head, hold_allowed=False)

    def piece(self, data: bytes, *, last: bool = False) -> None:
        self.exchange.response_body(data, last=last)

    def end(self) -> None:
        self.exchange.close(Termination.COMPLETE)


# --- a world with a known truth --------------------------------------------------------------------------------------------


def serve(director: Director, clock: Clock, count: int, chance: random.Random, *, slower: float = 1.0) -> list[Asked]:
    """Requests one after another, whose latencies follow from their prompts but for a tenth of noise."""
    asked = []
    for _ in range(count):
        tokens = chance.randrange(100, 5000)
        one = Asked(director, tokens)
        one.begin()
        clock.now += slower * (0.02 + tokens * 1e-4) * chance.uniform(0.9, 1.1)
        one.piece(EVENT)
        for _ in range(6):
            clock.now += slower * 0.01 * chance.uniform(0.9, 1.1)
            one.piece(EVENT)
        one.piece(b"data: [DONE]\n\n", last=True)
        one.end()
        clock.now += 0.1
        asked.append(one)
    return asked


def error(asked: list[Asked]) -> tuple[float, float]:
    """Medians of |predicted / observed - 1| of both latencies; NaN where nothing was predicted."""
    ttft = [abs(one.record.predicted_ttft_ms / one.record.ttft_ms - 1) for one in asked]
    tpot = [abs(one.record.predicted_tpot_ms / (one.record.average_tpot_ms or np.nan) - 1) for one in asked]
    return float(np.median(ttft)), float(np.median(tpot))


def worst(errors: tuple[float, float]) -> float:
    """The larger; NaN where one is."""
    return float(np.max(errors))


async def test_some_hundred_requests_teach_it(world: World) -> None:
    clock, chance = Clock(), random.Random(0)
    director = make_director(*SERVERS, config=CONFIG, outside=world, clock=clock)
    before = serve(director, clock, 300, chance)

    await until(lambda: has_learnt(director), director)
    after = serve(director, clock, 200, chance)

    assert np.isnan(error(before)).all()
    assert worst(error(after)) < 0.15
    inside = [
        one.record.predicted_ttft_low_ms <= one.record.ttft_ms <= one.record.predicted_ttft_high_ms for one in after
    ]
    assert np.mean(inside) > 0.75
    last = state(director)["training"]["last"]
    assert set(last) == {"ttft", "tpot"}
    assert all(re.match("published: version|rejected: ", outcome) for outcome in last.values())


async def test_a_training_process_that_is_killed_costs_nothing_but_time(world: World) -> None:
    clock, chance = Clock(), random.Random(1)
    director = make_director(*SERVERS, config=CONFIG, outside=world, clock=clock)
    serve(director, clock, 300, chance)
    await until(lambda: has_learnt(director), director)
    first = training(director, "pid")

    os.kill(first, signal.SIGKILL)
    await until(lambda: not training(director, "is_running"), director)
    meanwhile = serve(director, clock, 300, chance)
    await until(lambda: training(director, "pid") != first and training(director, "is_running") == 1, director)
    fits = training(director, "fits")
    serve(director, clock, 100, chance)
    await until(lambda: training(director, "fits") > fits, director)

    assert worst(error(meanwhile)) < 0.15
    assert worst(error(serve(director, clock, 50, chance))) < 0.15


async def test_nonsense_does_not_replace_the_model(world: World) -> None:
    clock, chance = Clock(), random.Random(2)
    director = make_director(*SERVERS, config=CONFIG, outside=world, clock=clock)
    serve(director, clock, 400, chance)
    await until(lambda: has_learnt(director), director)
    fits = training(director, "fits")

    for one in [Asked(director, chance.randrange(100, 5000)) for _ in range(300)]:
        one.begin()
        clock.now += chance.choice((0.0, 1e-7, 1e9))  # a clock that stands still, and one that jumps
        for piece in (EVENT, EVENT):
            one.piece(piece)
        one.end()
    serve(director, clock, 100, chance)
    await until(lambda: training(director, "fits") > fits, director)

    assert worst(error(serve(director, clock, 100, chance))) < 0.25


async def test_the_training_process_ends_with_the_service() -> None:
    world = World()
    director = make_director(*SERVERS, config=CONFIG, outside=world)
    pid = training(director, "pid")

    producer_of(director).stop()
    await world.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_model_survives_a_restart(world: World, tmp_path: Path) -> None:
    clock, chance = Clock(), random.Random(3)
    director = make_director(*SERVERS, config=CONFIG, outside=world, clock=clock)
    serve(director, clock, 300, chance)
    await until(lambda: has_learnt(director), director)
    directory = StateDir(tmp_path)
    directory.prepare()
    await directory.save(director.pipeline.plugins.values())

    # Endpoints come after the state, as in a service that starts.
    again = make_director(config=CONFIG, clock=clock)
    await directory.load(again.pipeline.plugins.values())
    again.datastore.replace_all([EndpointSpec(f"s{i}", f"10.0.0.{i}", 8000) for i in (1, 2)])

    assert directory.problems == ()
    assert worst(error(serve(again, clock, 100, chance))) < 0.15


async def test_without_xgboost_requests_pass_and_a_line_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    clock = Clock()
    director = make_director(*SERVERS, config=CONFIG, outside=world, clock=clock)

    asked = serve(director, clock, 120, random.Random(4))

    assert all(data_key(LATENCY_PREDICTION) not in one.request.data for one in asked)
    assert caplog.text.count("pip install xgboost-cpu") == 1
    assert state(director)["training"] is None


# --- simulated servers -------------------------------------------------------------------------------------------------------


class Trainings(Nowhere):
    """Real training processes and nothing else of the world: the loop's time is not that of the world."""

    def train(self, in_use: bytes = b"") -> Training:
        return TrainingWorker(in_use, ended=lambda end: end())


async def serve_by(core: Core, asked: Asked) -> None:
    """What a simulated server streams, chunk by chunk, without its sockets."""
    prompt = json.loads(asked.body)["prompt"].encode()
    with Generation(core, Ask([prompt], "sim-model", max_tokens=8, stream=True)) as generation:
        [sequence] = generation.choices
        asked.begin()
        told = 0
        while not generation.is_done:
            await generation.progress()
            for _ in range(sequence.generated - told):
                asked.piece(EVENT)
            told = sequence.generated
    asked.piece(b"data: [DONE]\n\n", last=True)
    asked.end()


async def load(
    director: Director, cores: dict[str, Core], count: int, at_once: int, chance: random.Random
) -> list[Asked]:
    """`count` requests of very different lengths, `at_once` of them at any time."""
    asked: list[Asked] = []
    lengths = [int(2 ** chance.uniform(6, 12)) for _ in range(count)]

    async def client() -> None:
        while lengths:
            one = Asked(director, lengths.pop())
            asked.append(one)
            await serve_by(cores[one.destination], one)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return asked


async def learn_from_simulated_servers() -> None:
    cores = {server: Core(SimConfig(cost=StepCost(base_ms=3, prefill_ms_per_1k_tokens=40))) for server in SERVERS}
    director = make_director(*cores, config=CONFIG, outside=Trainings(), clock=asyncio.get_running_loop().time)
    for core in cores.values():
        core.start()
    chance = random.Random(5)
    try:
        await load(director, cores, 300, 2, chance)
        while not has_learnt(director):
            producer_of(director).poll()
            time.sleep(0.02)  # noqa: ASYNC251 (the process lives in real time)
        after = await load(director, cores, 100, 2, chance)
    finally:
        producer_of(director).stop()
        for core in cores.values():
            await core.stop()

    observed = np.array([asked.record.ttft_ms for asked in after])
    same_for_all = float(np.median(np.abs(np.median(observed) / observed - 1)))
    assert error(after)[0] < 0.3 * same_for_all
    predicted: LatencyPrediction = after[-1].request.data[data_key(LATENCY_PREDICTION)]
    assert (predicted.ttft_ms[:2] > 0).all()
    assert not producer_of(director)._ledger.counts.any()


def test_it_learns_from_simulated_servers() -> None:
    """In their time: on a busy machine that of sockets and tasks would be most of what is learnt."""
    run_virtually(learn_from_simulated_servers())
