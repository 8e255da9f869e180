"""Whatever becomes of requests and endpoints, in whatever order: nothing stays counted, and nothing raises."""

from __future__ import annotations

from math import inf

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.api import METRICS_UPDATED_S, Endpoint, Fleet, Request, Response, Termination, Usage
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from tests.support.latency import School, model
from tests.support.outside import handle_with
from tests.support.plugins import Clock, make_plugin
from tests.support.scheduling import make_request, picked

TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
PIECES = st.sampled_from([TOKEN, TOKEN + TOKEN, TOKEN[:30], TOKEN[30:], b"data: [DONE]\n\n", b"", b"\n", b"{}"])
ADDRESSES = [f"10.0.0.{i}" for i in range(1, 6)]


class Requests(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.fleet = Fleet(capacity=2)
        handle = handle_with(School(model()), self.fleet, name="p", clock=self.clock)
        self.producer = make_plugin(PredictedLatencyProducer, handle=handle, endpointRoleLabel="role")
        self.producer.start()
        self.under_way: list[tuple[PredictedLatencyProducer, Request, Response]] = []

    @rule(address=st.sampled_from(ADDRESSES), role=st.sampled_from(["", "prefill", "decode"]))
    def endpoint_comes(self, address: str, role: str) -> None:
        endpoint = Endpoint(address, address, 8000, labels={"role": role})
        self.fleet.add(endpoint)
        self.fleet.columns[METRICS_UPDATED_S][endpoint.row] = self.clock.now
        self.producer.endpoint_added(endpoint)

    @precondition(lambda self: len(self.fleet))
    @rule(data=st.data())
    def endpoint_goes(self, data: st.DataObject) -> None:
        endpoint = data.draw(st.sampled_from(self.fleet.candidates().endpoints))
        self.producer.endpoint_removed(endpoint)
        self.fleet.remove(endpoint)

    @precondition(lambda self: len(self.fleet))
    @rule(
        data=st.data(),
        slo=st.sampled_from(["", "20", "nan", "5"]),
        prompt=st.integers(0, 3000),
        waits=st.booleans(),
        apart=st.booleans(),
    )
    def request_comes(self, data: st.DataObject, slo: str, prompt: int, *, waits: bool, apart: bool) -> None:
        request = make_request(b"x" * prompt, headers={"x-slo-tpot-ms": slo} if slo else {})
        candidates = self.fleet.candidates()
        self.producer.produce(request, candidates)
        if waits:
            self.clock.now += 1.0
        request.candidates = candidates
        rows = st.sampled_from(candidates.rows.tolist())
        others = {"prefill": data.draw(rows)} if apart else {}
        self.producer.pre_request(request, picked(self.fleet, data.draw(rows), **others))
        self.under_way.append((self.producer, request, Response()))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), status=st.sampled_from([200, 200, 503]), bodies=st.booleans(), streaming=st.booleans())
    def headers_come(self, data: st.DataObject, status: int, *, bodies: bool, streaming: bool) -> None:
        producer, request, response = data.draw(st.sampled_from(self.under_way))
        if response.status:
            return
        response.status, response.body_seen, response.streaming = status, bodies, streaming
        producer.response_received(request, response)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), piece=PIECES, after_s=st.sampled_from([0.0, 0.001, 0.1, 100.0]))
    def piece_comes(self, data: st.DataObject, piece: bytes, after_s: float) -> None:
        producer, request, response = data.draw(st.sampled_from(self.under_way))
        self.clock.now += after_s
        producer.response_chunk(request, response, piece)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), termination=st.sampled_from(Termination), tokens=st.sampled_from([None, 0, 1, 7, 10**9]))
    def request_ends(self, data: st.DataObject, termination: Termination, tokens: int | None) -> None:
        number = data.draw(st.integers(0, len(self.under_way) - 1))
        producer, request, response = self.under_way.pop(number)
        response.termination = termination
        response.usage = None if tokens is None else Usage(completion_tokens=tokens)
        if termination is Termination.COMPLETE:
            producer.response_ending(request, response)
        producer.response_complete(request, response)
        producer.response_complete(request, response)

    @rule()
    def model_comes(self) -> None:
        self.producer.poll()

    @rule()
    def parameters_change(self) -> None:
        successor = make_plugin(PredictedLatencyProducer, handle=self.producer.handle, sloBufferFactor=2)
        successor.take_over(self.producer)
        successor.start()
        for endpoint in self.fleet.candidates():
            successor.endpoint_added(endpoint)
        self.producer.stop()
        self.producer = successor

    @invariant()
    def counts_are_sound(self) -> None:
        counts = self.producer._ledger.counts
        assert (counts >= 0).all()
        assert (counts == np.round(counts)).all()
        if not self.under_way:
            assert not counts.any()
            assert self.producer._running.count == 0
            assert (self.producer._running.tightest_ms == inf).all()


Requests.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestRequests = Requests.TestCase
