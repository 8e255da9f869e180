"""Both transports say the same, and neither leaves anything behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from epp.api import Admitter, Candidates, Code, Request, RequestError
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.gen import health_pb2
from epp.server.session import ExtProc, Session
from tests.support.conversations import Conversation, all_conversations
from tests.support.extproc import POST, request_body, request_headers, response_body, response_headers
from tests.support.service import TRANSPORTS, converse, in_flight, make_director, process_call, serving
from tests.support.stack import eventually

both = pytest.mark.parametrize("transport", TRANSPORTS)
COMPLETE = [c for c in all_conversations() if c.half_closed]
BODY = b'{"model": "m", "prompt": "hello there, this is a prompt"}'


def said(conversation: Conversation) -> list[bytes]:
    """The replies of a session that no transport carries."""
    session = Session(ExtProc(make_director("127.0.0.1:8000"), max_body_bytes=1 << 24), lambda: None)
    replies: list[bytes] = []
    for message in conversation.chunks:
        session.receive(message)
        replies += session.take()
    session.half_closed()
    replies += session.take()
    session.close("OK")
    return replies


@both
async def test_recorded_conversations_get_the_same_replies_byte_by_byte(transport: str) -> None:
    assert len(COMPLETE) > 20
    async with serving(transport, make_director("127.0.0.1:8000")) as running, running.channel() as channel:
        for conversation in COMPLETE:
            assert await converse(channel, conversation.chunks) == said(conversation), conversation.name

        await _quiet(running.service)


@both
async def test_conversations_that_are_reset_leave_nothing_behind(transport: str) -> None:
    director = make_director("127.0.0.1:8000")
    async with serving(transport, director) as running, running.channel() as channel:
        for conversation in all_conversations():
            for length in range(1, len(conversation.messages) + 1):
                call = process_call(channel)
                for message in conversation.chunks[:length]:
                    await call.write(message)
                call.cancel()

        await _quiet(running.service)


async def _quiet(service: ExtProc) -> None:
    async def left() -> float:
        return service.open_streams + in_flight(service.director)

    await eventually(left, lambda total: total == 0)


@both
async def test_tls_with_alpn_h2(transport: str) -> None:
    async with serving(transport, make_director("127.0.0.1:8000"), tls=True) as running, running.channel() as channel:
        replies = await converse(channel, [request_headers(POST, end=True).SerializeToString()])

        assert pb.ProcessingResponse.FromString(replies[0]).WhichOneof("response") == "request_headers"


@both
async def test_unknown_methods_and_services_are_unimplemented(transport: str) -> None:
    async with serving(transport, make_director()) as running, running.channel() as channel:
        for path in ("/envoy.service.ext_proc.v3.ExternalProcessor/Nothing", "/no.Service/Method"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"")

            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@both
async def test_malformed_bytes_end_the_call_and_nothing_else(transport: str) -> None:
    async with serving(transport, make_director("127.0.0.1:8000")) as running, running.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await converse(channel, [b"\xff\xff\xff"])

        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "malformed ProcessingRequest" in (caught.value.details() or "")
        assert await converse(channel, [request_headers(POST, end=True).SerializeToString()])
        await _quiet(running.service)


@both
async def test_health_is_answered_on_the_same_port(transport: str) -> None:
    async with serving(transport, make_director()) as running, running.channel() as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        listed = channel.unary_unary(
            "/grpc.health.v1.Health/List", response_deserializer=health_pb2.HealthListResponse.FromString
        )
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")

        up = await check(health_pb2.HealthCheckRequest(service="inference-extension"))
        running.health.draining = True
        down = await check(health_pb2.HealthCheckRequest())
        alive = await check(health_pb2.HealthCheckRequest(service="liveness"))
        statuses = (await listed(b"")).statuses
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(b"").read()

        assert (up.status, down.status, alive.status) == (1, 2, 1)
        assert statuses["envoy.service.ext_proc.v3.ExternalProcessor"].status == 2
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@both
async def test_malformed_health_requests_are_refused(transport: str) -> None:
    async with serving(transport, make_director()) as running, running.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff")

        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") is not None


@both
async def test_two_thousand_streams_at_once_on_one_connection(transport: str) -> None:
    director = make_director("127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003")
    first = [request_headers().SerializeToString(), request_body(BODY, end=True).SerializeToString()]
    rest = [response_headers().SerializeToString(), response_body(b"{}", end=True).SerializeToString()]
    async with serving(transport, director) as running, running.channel() as channel:
        calls = [process_call(channel) for _ in range(2000)]
        for call in calls:
            for message in first:
                await call.write(message)
        picked = [await _pick(call) for call in calls]
        busy = in_flight(director)
        for call in calls:
            for message in rest:
                await call.write(message)
            await call.done_writing()
        for call in calls:
            await _read_to_the_end(call)

        assert busy >= 2000
        assert set(picked) == {"127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003"}
        await _quiet(running.service)


async def _read_to_the_end(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def _pick(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> str:
    reply = pb.ProcessingResponse.FromString(await call.read())
    await call.read()
    (option,) = [
        o for o in reply.request_headers.response.header_mutation.set_headers if o.header.key.startswith("x-gateway")
    ]
    return option.header.raw_value.decode()


@both
async def test_a_large_body_goes_through_with_a_slow_reader(transport: str) -> None:
    body = b'{"model": "m", "prompt": "' + b"x" * 5_000_000 + b'"}'
    sent = [request_headers().SerializeToString()]
    sent += [request_body(body[i : i + 100_000]).SerializeToString() for i in range(0, len(body), 100_000)]
    sent.append(request_body(b"", end=True).SerializeToString())
    async with serving(transport, make_director("127.0.0.1:8000")) as running, running.channel() as channel:
        call = process_call(channel)
        for message in sent:
            await call.write(message)
        received = b""
        while len(received) < len(body):
            reply = pb.ProcessingResponse.FromString(await call.read())
            received += reply.request_body.response.body_mutation.streamed_response.body
        await call.done_writing()
        await _read_to_the_end(call)

        assert received == body
        await _quiet(running.service)


class Gate:
    """Lets requests through when it is opened; knows how many wait."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def __call__(self) -> None:
        self.waiting += 1
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1

    def plugin(self) -> type[Admitter]:
        gate = self

        class Doorman(Admitter):
            type = "doorman"

            def admit(self, request: Request, candidates: Candidates) -> Awaitable[None]:
                if request.headers.get("x-refuse"):
                    raise RequestError(Code.FORBIDDEN, "not you")
                return gate()

        return Doorman


WAITING = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: doorman}, {type: queue-scorer}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]
"""


@both
async def test_decisions_that_wait_are_sent_when_they_are_made(transport: str) -> None:
    gate = Gate()
    director = make_director("127.0.0.1:8000", config=WAITING, plugins=[gate.plugin()])
    async with serving(transport, director) as running, running.channel() as channel:
        calls = [process_call(channel) for _ in range(20)]
        for call in calls:
            await call.write(request_headers().SerializeToString())
            await call.write(request_body(BODY, end=True).SerializeToString())
        await eventually(_waiting(gate), lambda n: n == 20)
        counted = in_flight(director)
        gate.opened.set()
        picked = [await _pick(call) for call in calls]
        for call in calls:
            call.cancel()

        assert counted == 0
        assert picked == ["127.0.0.1:8000"] * 20
        await _quiet(running.service)


@both
async def test_clients_that_leave_while_their_decision_waits_are_forgotten(transport: str) -> None:
    gate = Gate()
    director = make_director("127.0.0.1:8000", config=WAITING, plugins=[gate.plugin()])
    async with serving(transport, director) as running, running.channel() as channel:
        calls = [process_call(channel) for _ in range(20)]
        for call in calls:
            await call.write(request_headers(end=True).SerializeToString())
        await eventually(_waiting(gate), lambda n: n == 20)
        for call in calls:
            call.cancel()

        await eventually(_waiting(gate), lambda n: n == 0)
        gate.opened.set()
        await _quiet(running.service)


@both
async def test_an_admitters_refusal_reaches_the_client(transport: str) -> None:
    director = make_director("127.0.0.1:8000", config=WAITING, plugins=[Gate().plugin()])
    async with serving(transport, director) as running, running.channel() as channel:
        (reply,) = await converse(channel, [request_headers({**POST, "x-refuse": "1"}, end=True).SerializeToString()])

        assert pb.ProcessingResponse.FromString(reply).immediate_response.status.code == 403


def _waiting(gate: Gate) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return gate.waiting

    return count
