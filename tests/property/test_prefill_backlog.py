"""What must hold of the prefill backlog in whatever order requests begin, show tokens, move and end."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.api import (
    METRICS_UPDATED_S,
    PREFILL_BACKLOG,
    WAITING_REQUESTS,
    Endpoint,
    Request,
    Response,
    Termination,
    data_key,
)
from epp_plugins.producers.prefill_backlog_producer import PrefillBacklogProducer
from tests.support.plugins import Clock, make_fleet, make_handle, make_plugin
from tests.support.scheduling import ended, make_request, picked

TOKEN = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'


@dataclass(eq=False)
class Open:
    """A request on its way, and what it has to have on its endpoint."""

    request: Request
    endpoint: Endpoint
    tokens: int
    waits: bool = True
    answers: bool = False  # its own first token has come


class Backlog(RuleBasedStateMachine):
    """Against plain lists, oldest first: what is pending is exactly their sum, and what is believed lies within it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.fleet = make_fleet(3)
        handle = make_handle(self.fleet, name=PrefillBacklogProducer.type, clock=self.clock)
        self.producer = make_plugin(PrefillBacklogProducer, handle=handle, initialPrefillThroughput=1000)
        self.open: list[Open] = []
        self.added = 0

    def line(self, endpoint: Endpoint) -> list[Open]:
        return [one for one in self.open if one.endpoint is endpoint and one.waits]

    def was_read(self, one: Open) -> None:
        line = self.line(one.endpoint)
        if one in line:
            for before in line[: line.index(one) + 1]:
                before.waits = False

    def pick(self, data: st.DataObject) -> Open:
        return self.open[data.draw(st.integers(0, len(self.open) - 1))]

    @precondition(lambda self: len(self.fleet))
    @rule(data=st.data(), size=st.integers(0, 20_000), streaming=st.booleans())
    def start(self, data: st.DataObject, size: int, streaming: bool) -> None:
        target = data.draw(st.sampled_from(self.fleet.candidates().endpoints))
        request = make_request(b"x" * size)
        request.payload.streaming = streaming
        self.producer.produce(request, self.fleet.candidates())
        self.producer.pre_request(request, picked(self.fleet, target.row))
        self.open.append(Open(request, target, (size + 3) // 4))

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.open)
    @rule(data=st.data(), status=st.sampled_from([200, 200, 503]))
    def first_token(self, data: st.DataObject, status: int) -> None:
        one = self.pick(data)
        response = Response(status=status, streaming=one.request.payload.streaming, body_seen=True)
        self.producer.response_chunk(one.request, response, TOKEN)
        if status == 200:
            one.answers = True
            self.was_read(one)

    @precondition(lambda self: self.open and len(self.fleet))
    @rule(data=st.data())
    def retried(self, data: st.DataObject) -> None:
        one = self.pick(data)
        served = data.draw(st.sampled_from(self.fleet.candidates().endpoints))
        self.producer.response_received(one.request, Response(status=200, served_endpoint=served.host_port))
        if served is not one.endpoint and not one.answers:
            self.open.remove(one)
            self.open.append(Open(one.request, served, one.tokens))

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        termination=st.sampled_from(Termination),
        status=st.sampled_from([0, 200, 429, 503]),
        twice=st.booleans(),
    )
    def end(self, data: st.DataObject, termination: Termination, status: int, twice: bool) -> None:
        one = self.pick(data)
        for _ in range(1 + twice):
            self.producer.response_complete(one.request, ended(status, termination))
        if termination is Termination.COMPLETE and status in (0, 200):
            self.was_read(one)
        self.open.remove(one)

    @precondition(lambda self: len(self.fleet))
    @rule(data=st.data())
    def endpoint_leaves(self, data: st.DataObject) -> None:
        endpoint = data.draw(st.sampled_from(self.fleet.candidates().endpoints))
        self.producer.endpoint_removed(endpoint)
        self.fleet.remove(endpoint)
        for one in self.open:
            if one.endpoint is endpoint:
                one.endpoint, one.waits = Endpoint("gone", "10.8.0.1", 8000), False

    @precondition(lambda self: len(self.fleet) < 5)
    @rule()
    def endpoint_comes(self) -> None:
        self.added += 1
        endpoint = Endpoint(f"new{self.added}", f"10.9.0.{self.added}", 8000)
        self.fleet.add(endpoint)
        self.producer.endpoint_added(endpoint)

    @invariant()
    def what_is_pending_is_what_is_open(self) -> None:
        shown = self.producer.dump_state()
        assert isinstance(shown, dict)
        for endpoint in self.fleet.candidates():
            line = self.line(endpoint)
            state = shown["endpoints"].get(endpoint.name, {})
            assert state.get("pending_requests", 0) == len(line)
            assert state.get("pending_tokens", 0) == sum(one.tokens for one in line)
            answering = [one for one in self.open if one.endpoint is endpoint and not one.waits]
            assert state.get("decoding_requests", 0) == len(answering)
            assert 0 <= state.get("backlog_tokens", 0) <= state.get("pending_tokens", 0)
            assert state.get("tokens_per_second", 1) > 0

    def teardown(self) -> None:
        for one in self.open:
            self.producer.response_complete(one.request, ended(503, Termination.ERROR))
        request = make_request(b"")
        self.producer.produce(request, self.fleet.candidates())
        assert not request.data[data_key(PREFILL_BACKLOG)].tokens.any()


class TestBacklog(Backlog.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30)


@given(
    waiting=st.lists(
        st.one_of(st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 1e12]), st.integers(0, 5).map(float))
    ),
    tokens=st.lists(st.integers(0, 9000), min_size=1, max_size=6),
)
@settings(max_examples=60)
def test_whatever_a_page_says_the_backlog_stays_within_what_is_pending(waiting: list[float], tokens: list[int]) -> None:
    clock, fleet = Clock(), make_fleet(1)
    producer = make_plugin(PrefillBacklogProducer, handle=make_handle(fleet, name="b", clock=clock))
    for number, count in enumerate([*tokens, *waiting]):
        clock.now += 0.3
        if number >= len(tokens):
            fleet.columns[METRICS_UPDATED_S][0], fleet.columns[WAITING_REQUESTS][0] = clock.now, count
        request = make_request(b"x" * 4 * int(count if number < len(tokens) else 10))
        producer.produce(request, fleet.candidates())
        producer.pre_request(request, picked(fleet, 0))
        shown = producer.dump_state()
        assert isinstance(shown, dict)
        assert 0 <= shown["endpoints"]["s0"]["backlog_tokens"] <= shown["endpoints"]["s0"]["pending_tokens"]
