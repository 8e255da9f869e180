"""Predicted latencies, beside what they turned out to be, as the page and `epp explain` tell them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from epp.api import (
    LATENCY_PREDICTION,
    METRICS_UPDATED_S,
    WAITING_REQUESTS,
    Candidates,
    DataProducer,
    LatencyPrediction,
    Request,
    Termination,
    data_key,
)
from epp.cli.main import main as epp
from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode, RequestHead, ResponseHead
from epp.observability.explain_page import ExplainPage
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from tests.integration.test_explain import page_of
from tests.support.configs import HEAD
from tests.support.latency import School, model
from tests.support.plugins import Clock
from tests.support.service import make_director

CONFIG = f"""{HEAD}
plugins: [{{type: queue-scorer}}, {{type: predicted-latency-producer}}]
schedulingProfiles: [{{name: default, plugins: [{{pluginRef: queue-scorer}}]}}]
"""
EVENT = b'data: {"choices":[{"index":0,"text":"a "}]}\n\n'


class Stage:
    def __init__(self, *, ready: bytes | None) -> None:
        self.clock = Clock()
        self.director = make_director(
            "10.0.0.1:8000", "10.0.0.2:8000", config=CONFIG, outside=School(ready), clock=self.clock, keep=10
        )
        fleet = self.director.datastore.fleet
        fleet.columns[WAITING_REQUESTS][fleet.candidates().rows] = 0, 20
        fleet.columns[METRICS_UPDATED_S][:] = self.clock.now
        producer = self.director.pipeline.plugins["predicted-latency-producer"]
        assert isinstance(producer, PredictedLatencyProducer)
        producer.poll()

    def ask(self, *, ends: bool = True) -> dict[str, Any]:
        """One streamed request: 80 ms to the first token, 10 ms for each further one."""
        exchange = RequestExchange(self.director, lambda path, waiting: pytest.fail("nothing waits"))
        duplex = BodyMode.FULL_DUPLEX_STREAMED
        named = {":method": "POST", ":path": "/v1/completions", "x-request-id": "mine"}
        head = RequestHead(named, end_of_stream=False, request_body_mode=duplex, response_body_mode=duplex)
        exchange.route(head, json.dumps({"model": "m", "prompt": "x" * 4000, "stream": True}).encode())
        if ends:
            answer = ResponseHead({"content-type": "text/event-stream"}, status=200, end_of_stream=False)
            exchange.response_headers(answer, hold_allowed=False)
            for wait_s in (0.08, 0.01, 0.01):
                self.clock.now += wait_s
                exchange.response_body(EVENT, last=False)
            exchange.response_body(b"data: [DONE]\n\n", last=True)
            exchange.close(Termination.COMPLETE)
        return told(self.director)


def told(director: Director) -> dict[str, Any]:
    found = ExplainPage(director.decisions).one("mine")
    assert found is not None
    return found


@pytest.fixture
async def stage() -> Stage:
    return Stage(ready=model())


async def test_predictions_of_all_are_told_with_what_it_took(stage: Stage) -> None:
    explained = stage.ask()

    chosen, other = (endpoint["predicted"] for endpoint in explained["endpoints"])
    assert chosen["ttft_low_ms"] < chosen["ttft_ms"] < chosen["ttft_high_ms"]
    assert other["ttft_ms"] > 1.2 * chosen["ttft_ms"]
    latency = explained["outcome"]["latency"]
    assert (latency["ttft_ms"], latency["tpot_ms"]) == (pytest.approx(80), pytest.approx(10))
    assert latency["predicted_ttft_ms"] == chosen["ttft_ms"]
    assert latency["predicted_tpot_high_ms"] == chosen["tpot_high_ms"]


async def test_while_it_is_under_way_only_predictions_are_told(stage: Stage) -> None:
    explained = stage.ask(ends=False)

    assert explained["outcome"] is None
    assert explained["endpoints"][0]["predicted"]["ttft_ms"] > 0


async def test_untrained_nothing_is_told() -> None:
    explained = Stage(ready=None).ask()

    assert explained["outcome"]["latency"] is None
    assert [endpoint["predicted"] for endpoint in explained["endpoints"]] == [None, None]


class Nonsense(DataProducer):
    """Publishes vectors that are none."""

    type = "nonsense"

    def produce(self, request: Request, candidates: Candidates) -> None:
        short: Any = np.zeros(0)
        request.data[data_key(LATENCY_PREDICTION, self.name)] = LatencyPrediction(short, short)


async def test_predictions_that_cannot_be_read_are_passed_by() -> None:
    config = CONFIG.replace("predicted-latency-producer", "nonsense")
    stage = Stage(ready=None)
    stage.director = make_director("10.0.0.1:8000", config=config, plugins=(Nonsense,), keep=10)

    explained = stage.ask()

    assert explained["endpoints"][0]["predicted"] is None
    assert explained["outcome"]["latency"] is None


async def test_the_command_shows_intervals_beside_what_happened(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.ask()

    async with page_of(stage.director) as url:
        status = await asyncio.to_thread(epp, ["explain", "mine", "--url", url])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    [line] = [line for line in lines if line.startswith("predicted: ")]
    assert line.count(" to the first token, took 80; ") == 1
    assert line.endswith(" a token, took 10")
    [head] = [line for line in lines if line.split()[:1] == ["endpoint"]]
    assert "first token" in head
    assert any(line.split()[:1] == ["s1"] and " ms (" in line for line in lines)
