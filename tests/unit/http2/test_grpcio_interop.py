"""The core behind a real socket, spoken to by grpcio's clients."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from epp.http2 import ErrorCode, GrpcStream
from tests.support import h2spec_server
from tests.support.h2spec_server import METHOD, EchoApplication, EchoHandler

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class WatchedHandler(EchoHandler):
    __slots__ = ("resets",)

    def on_reset(self, code: int) -> None:
        self.resets.put_nowait(code)


class WatchedApplication(EchoApplication):
    """Tells when a call was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.resets: asyncio.Queue[int] = asyncio.Queue()

    def on_open(self, stream: GrpcStream) -> EchoHandler | None:
        handler = super().on_open(stream)
        if handler is None:
            return None
        watched = WatchedHandler(stream)
        watched.resets = self.resets
        return watched


@pytest.fixture
async def application() -> AsyncIterator[WatchedApplication]:
    application = WatchedApplication()
    yield application
    assert application.crashes == []


@pytest.fixture
async def port(application: WatchedApplication) -> AsyncIterator[int]:
    async with await h2spec_server.start(application) as server:
        yield h2spec_server.port_of(server)


@pytest.fixture
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
        yield channel


async def test_bidirectional_stream_alternates(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(METHOD)()
    for text in (b"", b"one", b"x" * 100_000):
        await call.write(text)

        assert await call.read() == text
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_two_hundred_calls_at_once_keep_their_messages_apart(channel: grpc.aio.Channel) -> None:
    async def one(number: int) -> list[bytes]:
        sent = [b"%d-%d" % (number, turn) * 50 for turn in range(5)]
        assert [reply async for reply in channel.stream_stream(METHOD)(iter(sent))] == sent
        return sent

    assert len(await asyncio.gather(*(one(number) for number in range(200)))) == 200


async def test_four_mebibytes_go_both_ways(channel: grpc.aio.Channel) -> None:
    body = bytes(range(256)) * (4 * 1024 * 4)

    replies = [reply async for reply in channel.stream_stream(METHOD)(iter([body]))]

    assert replies == [body]


async def test_a_message_over_the_limit_is_resource_exhausted(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(METHOD)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"x" * (4 * 1024 * 1024 + 1))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_gzip_both_ways(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(METHOD)(
        iter([b"a" * 50_000, b"b"]), compression=grpc.Compression.Gzip, metadata=[("echo-gzip", "1")]
    )

    assert [reply async for reply in call] == [b"a" * 50_000, b"b"]
    assert dict(await call.initial_metadata()).get("grpc-encoding", "gzip") == "gzip"


async def test_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/no.Such/Method")(b"x")

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert raised.value.details() == "unknown method /no.Such/Method"


async def test_status_message_and_trailers_arrive(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary(METHOD)(b"x", metadata=[("fail-with", "7")])

    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert raised.value.details() == "not you, 100% née"
    assert ("why-bin", b"\x00\xff") in list(raised.value.trailing_metadata())


async def test_deadline_ends_the_call_on_both_sides(channel: grpc.aio.Channel, application: WatchedApplication) -> None:
    await channel.channel_ready()  # or the time may be over before the call is sent
    call = channel.stream_stream(METHOD)(timeout=1.5)
    await call.write(b"x")
    assert await call.read() == b"x"

    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(application.resets.get(), 60) == ErrorCode.CANCEL


async def test_cancel_reaches_the_handler(channel: grpc.aio.Channel, application: WatchedApplication) -> None:
    call = channel.stream_stream(METHOD)()
    await call.write(b"x")
    assert await call.read() == b"x"

    call.cancel()

    assert await asyncio.wait_for(application.resets.get(), 60) == ErrorCode.CANCEL


async def test_the_synchronous_client_streams(port: int) -> None:
    def talk() -> list[bytes]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return list(channel.stream_stream(METHOD)(iter([b"1", b"22" * 40_000, b"333"])))

    assert await asyncio.to_thread(talk) == [b"1", b"22" * 40_000, b"333"]
