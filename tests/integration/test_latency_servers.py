"""The clients of the standalone predictor servers, against the real servers and against ones that fail."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epp.api import (
    LATENCY_PREDICTION,
    ConfigError,
    Floats,
    Handle,
    LatencyPrediction,
    Request,
    Response,
    Usage,
    data_key,
)
from epp.outside import World
from epp_plugins.latency_servers.prediction_client import NoPrediction, PredictionClient
from epp_plugins.latency_servers.training_client import TrainingClient
from epp_plugins.latency_servers.wire import BadAnswer, predictions, training_entries
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_predictor import samples
from epp_predictor.features import COLUMN, new_features
from tests.support.http_fakes import FakeServer, eventually, hang, page, raw, serving
from tests.support.latency_world import draw
from tests.support.outside import handle_with
from tests.support.plugins import Clock, make_fleet, make_plugin
from tests.support.predictor_servers import prediction_app, training_app
from tests.support.predictor_servers import serving as served
from tests.support.scheduling import make_request, picked
from tests.support.stack import eventually as asked_until
from tests.unit.plugins.test_predicted_latency_producer import TOKEN

NAN = float("nan")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


def handle(world: World, clock: Clock | None = None) -> Handle:
    made = handle_with(world, name="predicted-latency-producer", clock=clock or Clock())
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return Handle(**fields | {"sleep": asyncio.sleep, "random": random.Random(1)})


def some(count: int, tokens: float = 500.0) -> Floats:
    features = new_features(count)
    features[:, COLUMN["input_token_length"]] = tokens + np.arange(count)
    return features


def url_of(server: FakeServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def said(*pairs: tuple[float, float]) -> bytes:
    return json.dumps({"predictions": [{"ttft_ms": a, "tpot_ms": b, "quantile": 0.9} for a, b in pairs]}).encode()


@pytest.mark.timeout(400)
async def test_samples_are_learnt_and_predicted_by_the_real_servers(world: World, tmp_path: Path) -> None:
    async with served(training_app(tmp_path)) as training_url, served(prediction_app(tmp_path, training_url)) as url:
        trainer = TrainingClient(handle(world), training_url, most=5000)
        drawn = draw(1500, np.random.default_rng(0))
        for i in range(1500):
            latencies = {"ttft_ms": float(drawn.ttft_ms[i]), "tpot_ms": float(drawn.tpot_ms[i])}
            trainer.add(samples.row(drawn.features[i], 1, **latencies, time_s=1.0))
        await trainer.flush()

        async def status() -> Any:
            return json.loads((await world.http("GET", f"{url}/status", timeout_s=60.0)).body)

        # A server without any model refuses to predict, and is then left alone.
        await asked_until(status, lambda status: status["is_ready"], deadline_s=60)
        client = PredictionClient(handle(world), [url], deadline_s=60.0)
        asked = draw(200, np.random.default_rng(1))

        async def median_error() -> float:
            got = await client.predict(asked.features)
            return float(np.median(np.abs(got[0] / asked.ttft_ms - 1)))

        # A constant while nothing was learnt.
        await asked_until(median_error, lambda error: error < 0.5, deadline_s=200)

    assert (trainer.sent, trainer.left_out) == (3000, 0)
    assert client.calls == 0


def echoing(server: FakeServer, calls: list[int]) -> Any:
    """Answers each row with its prompt's tokens as TTFT."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = server.requests[-1].lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r")[0])
        rows = json.loads(await reader.readexactly(length))["requests"]
        calls.append(len(rows))
        answer = said(*((r["input_token_length"], 1.0) for r in rows))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
        return True

    return behave


async def test_requests_of_a_moment_share_a_call_and_get_their_own_rows(world: World) -> None:
    calls: list[int] = []
    async with serving(page(b"")) as server:
        server.behaviour = echoing(server, calls)
        client = PredictionClient(handle(world), [url_of(server)], window_s=0.05, deadline_s=60.0)

        answers = await asyncio.gather(*(client.predict(some(n, 1000.0 * n)) for n in (1, 2, 3)))

    assert calls == [6]
    assert [a[0].tolist() for a in answers] == [[1000], [2000, 2001], [3000, 3001, 3002]]


async def test_more_rows_than_a_call_may_have_go_in_another(world: World) -> None:
    calls: list[int] = []
    async with serving(page(b"")) as server:
        server.behaviour = echoing(server, calls)
        client = PredictionClient(handle(world), [url_of(server)], window_s=0.05, deadline_s=60.0, most_rows=4)

        answers = await asyncio.gather(*(client.predict(some(n, 1000.0 * n)) for n in (1, 2, 3)))

    assert sorted(calls) == [3, 3]
    assert [len(a[0]) for a in answers] == [1, 2, 3]


async def test_a_request_that_gives_up_takes_nothing_from_the_others(world: World) -> None:
    async with serving(page(b"")) as server:
        server.behaviour = echoing(server, [])
        client = PredictionClient(handle(world), [url_of(server)], window_s=0.05, deadline_s=60.0)
        first = asyncio.create_task(client.predict(some(1, 7.0)))
        second = asyncio.create_task(client.predict(some(1, 8.0)))
        await asyncio.sleep(0)
        first.cancel()

        assert (await second).tolist() == [[8.0], [1.0]]
        assert first.cancelled()
    assert client.calls == 0


BAD = {
    "no JSON": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n<p>"),
    "an error": page(said((1.0, 1.0)), status="500 Internal Server Error"),
    "another number": page(said((1.0, 1.0))),
    "negative": page(said((1.0, 1.0), (-1.0, 1.0))),
    "not HTTP": raw(b"\x00\x01\x02"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_server_that_fails_is_left_alone_for_ever_longer(world: World, name: str) -> None:
    clock = Clock()
    async with serving(BAD[name]) as server:
        client = PredictionClient(handle(world, clock), [url_of(server)], deadline_s=60.0)
        for pause_s in (1.0, 2.0, 4.0):
            with pytest.raises(NoPrediction) as caught:
                await client.predict(some(2))
            assert caught.value.reason == "failed"
            clock.now += pause_s - 0.01
            assert not client.is_available
            with pytest.raises(NoPrediction, match="no prediction server answers"):
                await client.predict(some(2))
            clock.now += 0.02
            assert client.is_available

        server.behaviour = page(said((1.0, 2.0), (3.0, 4.0)))
        assert (await client.predict(some(2))).tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert client.calls == 0


async def test_no_answer_within_the_deadline_is_none(world: World) -> None:
    async with serving(hang()) as server:
        client = PredictionClient(handle(world), [url_of(server)], deadline_s=0.05)
        with pytest.raises(NoPrediction) as caught:
            await client.predict(some(2))

    assert caught.value.reason == "deadline"
    assert client.calls == 0


async def test_another_server_is_asked_while_one_fails(world: World) -> None:
    async with serving(page(b"", status="503 Busy")) as bad, serving(page(said((1.0, 2.0)))) as good:
        client = PredictionClient(handle(world), [url_of(bad), url_of(good)], deadline_s=60.0)
        failed = 0
        for _ in range(30):
            try:
                await client.predict(some(1))
            except NoPrediction:
                failed += 1

    assert failed <= 1


async def test_more_calls_than_allowed_are_not_begun(world: World) -> None:
    async with serving(hang()) as server:
        client = PredictionClient(handle(world), [url_of(server)], deadline_s=30.0, most_calls=1, window_s=0.0)
        waiting = asyncio.create_task(client.predict(some(1)))
        await eventually(lambda: server.requests)
        with pytest.raises(NoPrediction) as caught:
            await client.predict(some(1))
        assert caught.value.reason == "busy"
        await world.close()
        with pytest.raises(NoPrediction):
            await waiting
    assert client.calls == 0


async def test_samples_that_nobody_takes_are_kept_up_to_a_number(world: World) -> None:
    async with serving(page(b"", status="202 Accepted")) as server:
        client = TrainingClient(handle(world), url_of(server), most=10)
        await server.stop()
        for i in range(25):
            client.add(samples.row(some(1)[0], 1, ttft_ms=1.0 + i, tpot_ms=NAN, time_s=1.0))
        await client.flush()
        assert (client.sent, client.failures, client.left_out) == (0, 1, 15)

        await server.start()
        await client.flush()
        assert (client.sent, client.failures) == (10, 1)


async def test_samples_that_are_refused_are_not_sent_again(world: World) -> None:
    async with serving(page(b"", status="422 Unprocessable")) as server:
        client = TrainingClient(handle(world), url_of(server))
        client.add(samples.row(some(1)[0], 1, ttft_ms=1.0, tpot_ms=2.0, time_s=1.0))
        await client.flush()
        await client.flush()

        assert (len(server.requests), client.left_out, client.failures) == (1, 2, 1)


async def test_sending_goes_on_by_itself_until_it_is_closed(world: World) -> None:
    async with serving(page(b"", status="202 Accepted")) as server:
        client = TrainingClient(handle(world), url_of(server), interval_s=0.01)
        client.start()
        client.start()
        client.add(samples.row(some(1)[0], 1, ttft_ms=1.0, tpot_ms=NAN, time_s=1.0))
        await eventually(lambda: client.sent == 1)
        client.close()
        client.close()


def test_a_sample_is_an_entry_for_each_latency() -> None:
    features = some(1)[0]
    features[COLUMN["prefix_cache_score"]] = 1.5
    features[COLUMN["pod_type"]] = 2.0
    row = samples.row(features, 1, ttft_ms=10.0, tpot_ms=3.0, time_s=1.0)

    first, second = training_entries(row, "2026-01-01T00:00:00Z")

    assert (first["actual_ttft_ms"], first["actual_tpot_ms"]) == (10.0, 0.0)
    assert (second["actual_ttft_ms"], second["actual_tpot_ms"]) == (0.0, 3.0)
    assert (first["prefix_cache_score"], first["pod_type"], first["input_token_length"]) == (1.0, "decode", 500)


def test_an_infinite_prediction_is_none() -> None:
    with pytest.raises(BadAnswer):
        predictions(b'{"predictions": [{"ttft_ms": 1e999, "tpot_ms": 1}]}', 1)


# --- the producer --------------------------------------------------------------------------------------------------------


class Stage:
    """A producer that asks servers, and requests that pass by."""

    def __init__(self, world: World, **parameters: object) -> None:
        self.clock = Clock()
        self.fleet = make_fleet(2)
        made = handle_with(world, self.fleet, name=PredictedLatencyProducer.type, clock=self.clock)
        fields = {name: getattr(made, name) for name in made.__struct_fields__}
        handle = Handle(**fields | {"sleep": asyncio.sleep, "random": random.Random(1)})
        self.producer = make_plugin(PredictedLatencyProducer, handle=handle, **parameters)
        self.producer.start()
        for endpoint in self.fleet.candidates():
            self.producer.endpoint_added(endpoint)

    async def produce(self) -> tuple[Request, LatencyPrediction | None]:
        request = make_request(b"x" * 4000)
        request.payload.streaming = True
        waiting = self.producer.produce(request, self.fleet.candidates())
        if waiting is not None:
            await waiting
        return request, request.data.get(data_key(LATENCY_PREDICTION))

    async def serve(self, ttft_ms: float, tpot_ms: float) -> LatencyPrediction | None:
        """One request from its dispatch to its end."""
        request, latencies = await self.produce()
        self.producer.pre_request(request, picked(self.fleet, 0))
        response = Response(status=200, streaming=True, body_seen=True, headers={})
        self.producer.response_received(request, response)
        for wait_ms in (ttft_ms, tpot_ms):
            self.clock.now += wait_ms / 1e3
            self.producer.response_chunk(request, response, TOKEN)
        response.usage = Usage(prompt_tokens=1000, completion_tokens=2)
        self.producer.response_ending(request, response)
        self.producer.response_complete(request, response)
        return latencies


async def test_what_servers_say_is_calibrated_by_what_happens(world: World) -> None:
    """They say 100 ms and 10 ms; it takes twice as long, always."""
    async with serving(page(said((100.0, 10.0), (100.0, 10.0)))) as server:
        stage = Stage(world, predictionServerUrl=url_of(server), predictionDeadlineMs=60_000.0)
        first = await stage.serve(200.0, 20.0)
        for _ in range(100):
            last = await stage.serve(200.0, 20.0)
        told: Any = stage.producer.dump_state()
        stage.producer.stop()

    assert first is not None
    assert (first.ttft_ms[0], first.tpot_ms[0]) == (100, 10)
    assert np.isnan(first.ttft_low_ms[0])
    assert last is not None
    assert last.ttft_ms[0] == pytest.approx(200, rel=0.02)
    assert last.tpot_ms[0] == pytest.approx(20, rel=0.02)
    assert last.ttft_low_ms[0] <= last.ttft_ms[0] <= last.ttft_high_ms[0]
    assert (told["trained"], told["servers"]) == (False, {url_of(server): True})
    # Those of the first twenty had no interval that anything could be within.
    assert {target: judged["count"] for target, judged in told["predictions"].items()} == {"ttft": 81, "tpot": 81}
    lows = [line.split(",")[5] for line in b"".join(stage.producer.export()).decode().splitlines()[1:]]
    assert [low == "nan" for low in lows] == [True] * 40 + [False] * 162


async def test_without_servers_that_answer_nothing_is_predicted_and_requests_go_on(world: World) -> None:
    async with serving(page(b"", status="503 Busy")) as server:
        stage = Stage(world, predictionServerUrl=url_of(server), predictionDeadlineMs=60_000.0)
        assert await stage.serve(100.0, 10.0) is None
        request, latencies = await stage.produce()
        assert latencies is None
        assert len(server.requests) == 1  # the second one did not even ask
        assert stage.producer.dump_state()["servers"] == {url_of(server): False}  # type: ignore[index]
        stage.producer.pre_request(request, picked(stage.fleet, 0))

        server.behaviour = page(said((100.0, 10.0), (100.0, 10.0)))
        stage.clock.now += 2
        assert (await stage.produce())[1] is not None
        stage.producer.stop()


async def test_samples_go_to_the_training_server(world: World) -> None:
    async with serving(page(b"", status="202 Accepted")) as server:
        stage = Stage(world, trainingServerUrl=url_of(server), flushIntervalSec=0.01)
        await stage.serve(100.0, 10.0)
        await eventually(lambda: len(server.requests) == 1)
        stage.producer.stop()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"predictionServerUrl": "localhost:8001"},
            "predictionServerUrl: expected http://HOST:PORT, got 'localhost:8001'",
        ),
        ({"predictionServerUrl": "http://a:x"}, "predictionServerUrl: expected http://HOST:PORT, got 'http://a:x'"),
        ({"predictionServerUrl": "http://a:1,http://b:99999"}, "expected http://HOST:PORT, got 'http://b:99999'"),
        ({"trainingServerUrl": "http://[::1"}, r"trainingServerUrl: expected http://HOST:PORT, got 'http://\[::1'"),
        ({"trainingServerUrl": "http://a:1,http://b:1"}, "trainingServerUrl: expected one URL, got 2"),
    ],
)
async def test_urls_that_cannot_be(world: World, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stage(world, **parameters)
