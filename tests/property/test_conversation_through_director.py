"""Whole conversations with the real director and the default plugins behind them: no sockets, every order of events."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.api import (
    IN_FLIGHT_REQUESTS,
    IN_FLIGHT_TOKENS,
    Admitter,
    Candidates,
    DataProducer,
    Plugin,
    Request,
    headers,
)
from epp.data.endpoint_spec import EndpointSpec
from epp.director.director import Director
from epp.extproc.exchange import BodyMode
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.session import ExtProc, Session
from tests.support.extproc import (
    POST,
    Replies,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
)
from tests.support.service import make_director

ENDPOINTS = tuple(f"10.0.0.{i}:8000" for i in range(3))


def drain(session: Session) -> Replies:
    return Replies(pb.ProcessingResponse.FromString(reply) for reply in session.take())


# --- chunking ----------------------------------------------------------------------------------------------------------


def outcome(director: Director, chunks: list[bytes], *, by_trailers: bool) -> tuple[Any, ...]:
    """Where one request goes and what of it is sent on, or how it is refused; the conversation is left open."""
    session = ExtProc(director, max_body_bytes=1 << 20).session(lambda: None)
    session.receive(request_headers().SerializeToString())
    for i, chunk in enumerate(chunks):
        last = not by_trailers and i == len(chunks) - 1
        session.receive(request_body(chunk, end=last).SerializeToString())
    if by_trailers:
        session.receive(request_trailers().SerializeToString())
    replies = drain(session)
    if "immediate_response" in replies.kinds:
        return replies.immediate
    found = replies.headers_set("request_headers")
    return (
        found["x-gateway-destination-endpoint"],
        found.get("Content-Length"),
        replies.streamed("request_body"),
        any(replies.ends("request_body")) or "request_trailers" in replies.kinds,
    )


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


prompts = st.sampled_from(["hello", "x" * 3000, "naïve 日本語 \\u00e9 " * 40, ""])
models = st.sampled_from(["m", "base/one", "été", ""])
bodies = st.one_of(
    st.builds('{{"model": "{}", "prompt": "{}", "stream": true}}'.format, models, prompts).map(str.encode),
    st.builds('{{"messages": [{{"role": "user", "content": "{1}"}}], "model":"{0}"}}'.format, models, prompts).map(
        str.encode
    ),
    st.binary(max_size=30),
)
ways = st.tuples(bodies, st.lists(st.integers(0, 5000), max_size=12), st.booleans())


@given(requests=st.lists(ways, min_size=1, max_size=3))
@example(requests=[(b'{"model": "m", "prompt": "' + b"x" * 200_000 + b'"}', [1, 62_000, 62_001, 199_999], True)])
@settings(max_examples=80)
def test_any_chunking_of_a_body_gives_the_same_decision_and_the_same_bytes(
    requests: list[tuple[bytes, list[int], bool]],
) -> None:
    whole, chunked = make_director(*ENDPOINTS), make_director(*ENDPOINTS)

    # One after another on the same director: what the first ones leave behind has its part in later decisions.
    expected = [outcome(whole, [body], by_trailers=False) for body, _, _ in requests]
    found = [outcome(chunked, cut(body, places), by_trailers=by_trailers) for body, places, by_trailers in requests]

    assert found == expected
    forwarded = [result for result in found if len(result) > 2]
    assert all(result[3] for result in forwarded)
    assert [result[2] for result in forwarded] == [
        body for (body, _, _), result in zip(requests, found, strict=True) if len(result) > 2
    ]


# --- any order of events -----------------------------------------------------------------------------------------------

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: approx-prefix-cache-producer}
- {type: inflight-load-producer, parameters: {addEstimatedOutputTokens: true}}
- {type: slow-producer}
- {type: doorman}
- {type: queue-scorer}
- {type: prefix-cache-scorer}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: queue-scorer}, {pluginRef: prefix-cache-scorer}]}
"""


class Waits:
    """What requests with `x-wait` wait for, in a producer and then in an admitter; each wait ends when a test says so."""

    def __init__(self) -> None:
        self.open: list[asyncio.Future[None]] = []

    def wait(self, request: Request, where: str) -> Awaitable[None] | None:
        if where not in request.headers.get("x-wait", ""):
            return None
        future = asyncio.get_running_loop().create_future()
        self.open.append(future)
        return future

    def end(self, error: Exception | None) -> None:
        for future in [future for future in self.open if not future.done()][:1]:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    @property
    def left(self) -> int:
        return sum(not future.done() for future in self.open)

    def plugins(self) -> list[type[Plugin]]:
        waits = self

        class Slow(DataProducer):
            type = "slow-producer"
            timeout_s = 30.0

            def produces(self) -> tuple[str, ...]:
                return ()

            def produce(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
                return waits.wait(request, "producer")

        class Doorman(Admitter):
            type = "doorman"

            def admit(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
                return waits.wait(request, "admitter")

        return [Slow, Doorman]


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Everything that is logged as an error meanwhile, but what asyncio says when it collects what earlier tests left."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "asyncio":
                found.append(self.format(record))

    handler = Collect(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)


class World:
    """A director, a changing fleet and a few conversations at once."""

    def __init__(self) -> None:
        self.waits = Waits()
        self.director = make_director(*ENDPOINTS, config=CONFIG, plugins=self.waits.plugins())
        self.service = ExtProc(self.director, max_body_bytes=5000)
        self.sessions: dict[int, Session] = {}
        self.raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.raised.append(context))

    async def do(self, what: str, slot: int, detail: Any) -> None:
        if what == "message":
            session = self.sessions.get(slot)
            if session is None:
                session = self.sessions[slot] = self.service.session(lambda: None)
            session.receive(detail.SerializeToString())
            self._take(session)
        elif what == "half-close":
            if session := self.sessions.get(slot):
                session.half_closed()
                self._take(session)
        elif what == "close":
            if session := self.sessions.pop(slot, None):
                session.close(detail)
                session.close("Canceled")
        elif what == "wait ends":
            self.waits.end(detail)
        elif what == "endpoint":
            self._change(slot, present=detail)
        elif what == "crowd":
            for i in range(20, 20 + 18 * detail):  # more than the rows there are to begin with
                self._change(i, present=True)
        else:
            assert what == "turns"
            for _ in range(detail):
                await asyncio.sleep(0)

    def _take(self, session: Session) -> None:
        for reply in drain(session):
            assert reply.WhichOneof("response") is not None

    def _change(self, number: int, *, present: bool) -> None:
        spec = EndpointSpec(f"s{number}", f"10.0.0.{number}", 8000)
        if present:
            self.director.datastore.upsert(spec)
        else:
            self.director.datastore.remove(spec.key)

    async def end(self) -> None:
        """Every RPC ends, as a transport would see to."""
        for session in self.sessions.values():
            session.close("Canceled")
        self.sessions.clear()
        await self.do("turns", 0, 5)

    @property
    def counted(self) -> dict[str, float]:
        """Every counter that has to be zero once nothing is going on. Rows without an endpoint belong to nobody."""
        everyone = self.director.datastore.fleet.candidates()
        page, _ = self.director.recorder.render()
        running = [line for line in page.decode().splitlines() if "running" in line and not line.startswith("#")]
        return {
            "requests": float(abs(everyone.column(IN_FLIGHT_REQUESTS)).sum()),
            "tokens": float(abs(everyone.column(IN_FLIGHT_TOKENS)).sum()),
            "streams": self.service.open_streams,
            "waits": self.waits.left,
            "running": sum(abs(float(line.rpartition(" ")[2])) for line in running),
        }


IDLE = {"requests": 0, "tokens": 0, "streams": 0, "waits": 0, "running": 0}
BODY = b'{"model": "m", "prompt": "hello there, this is a prompt", "max_tokens": 7}'
modes = st.sampled_from(list(BodyMode))
heads = st.sampled_from(["", "", "producer", "admitter", "producer admitter"]).map(
    lambda wait: {**POST, "x-wait": wait}
)
starts = st.one_of(
    st.builds(request_headers, heads, end=st.booleans(), request_mode=modes, response_mode=modes),
    st.builds(request_headers, heads),
)
request_bodies = st.builds(
    request_body, st.sampled_from([BODY, BODY[:20], BODY[20:], b"", b"x" * 6000]), end=st.booleans()
)
messages = st.one_of(
    starts,
    request_bodies,
    st.builds(request_body, st.just(BODY), end=st.just(True)),
    st.builds(request_trailers),
    st.builds(response_headers, st.sampled_from([200, 500]), end=st.booleans()),
    st.builds(
        response_body, st.sampled_from([b"", b"x", b'{"usage": {"prompt_tokens": 9}}', b"\xff"]), end=st.booleans()
    ),
    st.builds(response_trailers),
)
slots = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("message"), slots, messages),
    st.tuples(st.just("message"), slots, messages),
    st.tuples(st.just("half-close"), slots, st.none()),
    st.tuples(st.just("close"), slots, st.sampled_from(["OK", "Canceled", "InvalidArgument"])),
    st.tuples(st.just("wait ends"), slots, st.sampled_from([None, None, ConnectionError("gone")])),
    st.tuples(st.just("endpoint"), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("crowd"), slots, st.booleans()),
    st.tuples(st.just("turns"), slots, st.sampled_from([1, 2, 5])),
)
# Random steps alone rarely get through a whole request, so that each slot may begin with most of one.
whole_requests = st.builds(
    lambda slot, head, rest: [("message", slot, head), ("message", slot, request_body(BODY, end=True)), *rest],
    slots,
    st.builds(request_headers, heads, response_mode=modes, request_mode=st.just(BodyMode.FULL_DUPLEX_STREAMED)),
    st.lists(steps, max_size=6),
)


@given(parts=st.lists(st.one_of(whole_requests, st.lists(steps, max_size=6)), max_size=8))
@settings(max_examples=150)
def test_after_any_order_of_events_every_counter_is_zero(parts: list[list[tuple[str, int, Any]]]) -> None:
    async def scenario() -> tuple[dict[str, float], list[object]]:
        world = World()
        for step in itertools.chain.from_iterable(parts):
            await world.do(*step)
        await world.end()
        return world.counted, world.raised

    with complaints() as logged:
        counted, raised = asyncio.run(scenario())

    assert counted == IDLE
    assert raised == []
    assert [text for text in logged if "ConnectionError: gone" not in text] == []


@pytest.mark.parametrize("where", ["producer", "admitter"])
@pytest.mark.parametrize("turns", range(4))
async def test_a_client_that_leaves_the_moment_its_wait_ends_is_not_counted(where: str, turns: int) -> None:
    world = World()
    head = request_headers({**POST, "x-wait": where})
    await world.do("message", 0, head)
    await world.do("message", 0, request_body(BODY, end=True))
    await world.do("turns", 0, 2)

    await world.do("wait ends", 0, None)
    await world.do("turns", 0, turns)
    await world.do("close", 0, "Canceled")
    await world.end()

    assert world.counted == IDLE
    assert world.raised == []


@pytest.mark.parametrize("name", [*headers.MODEL_REWRITE, *headers.FAIRNESS_ID])
def test_header_bytes_that_are_not_text_do_not_cost_the_metrics_page(name: str) -> None:
    director = make_director(*ENDPOINTS)
    head = request_headers()
    head.request_headers.headers.headers.add(key=name, raw_value=b"\xff\xfe")
    session = ExtProc(director, max_body_bytes=5000).session(lambda: None)
    session.receive(head.SerializeToString())
    session.receive(request_body(BODY, end=True).SerializeToString())
    session.close("Canceled")

    with complaints() as logged:
        page, _ = director.recorder.render()

    assert logged == []
    assert b"inference_objective_request_total{" in page
