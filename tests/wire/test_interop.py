"""The lean server as other people's HTTP/2 and gRPC clients see it: h2load, nghttp and grpcio's blocking client.

grpc.aio is in test_transports.py, the `h2` library in tests/property, a real Envoy in tests/e2e.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.gen import health_pb2
from epp.server.health import HealthState
from epp.server.lean import PROCESS, LeanServer
from epp.server.session import ExtProc, Session
from tests.support.conversations import all_conversations
from tests.support.extproc import request_body, request_headers, response_body, response_headers
from tests.support.http2_peer import message
from tests.support.service import Running, converse, in_flight, make_director, serving
from tests.support.stack import eventually

TARGET = "127.0.0.1:8000"
GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
BODY = b'{"model": "m", "prompt": "hello there, this is a prompt"}'
CONVERSATION = [
    request_headers(),
    request_body(BODY, end=True),
    response_headers(),
    response_body(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}', end=True),
]


@asynccontextmanager
async def lean() -> AsyncIterator[Running]:
    async with serving("lean", make_director(TARGET)) as running:
        yield running
        await quiet(running.service)


async def quiet(service: ExtProc) -> None:
    async def left() -> float:
        return service.open_streams + in_flight(service.director)

    await eventually(left, lambda total: total == 0)


def routed(running: Running) -> float:
    """Requests that the EPP has found a destination for."""
    page, _ = running.service.director.recorder.render()
    found = re.findall(r"^inference_objective_request_total\{.*\} (\S+)$", page.decode(), re.MULTILINE)
    return sum(map(float, found))


async def run(tool: str, *arguments: str) -> str:
    """What a command-line client prints. Skips the test where it is not installed."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} not found: it is in the Debian package nghttp2-client")
    process = await asyncio.create_subprocess_exec(
        path, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode(errors="replace"))


@pytest.fixture
def conversation_file(tmp_path: Path) -> str:
    """The body of an RPC that is one whole conversation."""
    path = tmp_path / "conversation.bin"
    path.write_bytes(b"".join(message(m.SerializeToString()) for m in CONVERSATION))
    return str(path)


async def test_nghttp_is_told_that_this_is_a_grpc_service() -> None:
    async with lean() as running:
        output = await run("nghttp", "-v", f"http://{running.address}/")

    assert ":status: 415" in output
    assert "expected content-type application/grpc" in output


async def test_nghttp_is_told_that_grpc_needs_post() -> None:
    async with lean() as running:
        output = await run("nghttp", "-v", *GRPC_HEADERS, f"http://{running.address}{PROCESS}")

    assert ":status: 405" in output
    assert "allow: POST" in output


async def test_nghttp_has_a_whole_conversation(conversation_file: str) -> None:
    async with lean() as running:
        output = await run("nghttp", "-v", *GRPC_HEADERS, "-d", conversation_file, f"http://{running.address}{PROCESS}")
        count = routed(running)

    assert ":status: 200" in output
    assert "grpc-status: 0" in output
    assert TARGET in output
    assert count == 1


@pytest.mark.parametrize(
    ("requests", "clients", "streams", "options"),
    [
        (1, 1, 1, ()),
        (600, 1, 100, ()),
        (600, 6, 20, ()),
        (300, 2, 50, ("-w", "10", "-W", "17")),  # windows of 1 KiB for a stream, 128 KiB for the connection
    ],
    ids=["one", "one connection", "six connections", "small windows"],
)
async def test_every_request_of_h2load_succeeds(
    conversation_file: str, requests: int, clients: int, streams: int, options: tuple[str, ...]
) -> None:
    async with lean() as running:
        url = f"http://{running.address}{PROCESS}"
        load = ("-n", str(requests), "-c", str(clients), "-m", str(streams), *options)
        output = await run("h2load", *load, *GRPC_HEADERS, "-d", conversation_file, url)
        count = routed(running)

    assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in output, output
    assert f"status codes: {requests} 2xx" in output
    assert count == requests


async def test_h2load_beyond_the_concurrent_streams_that_are_allowed(conversation_file: str) -> None:
    async with lean() as running:
        url = f"http://{running.address}{PROCESS}"
        output = await run("h2load", "-n", "5000", "-c", "1", "-m", "5000", *GRPC_HEADERS, "-d", conversation_file, url)
        count = routed(running)

    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in output, output
    assert count == 5000


# --- grpcio's blocking client ------------------------------------------------------------------------------------------


def blocking(address: str, call: Callable[[grpc.Channel], list[bytes]]) -> list[bytes]:
    with grpc.insecure_channel(address) as channel:
        return call(channel)


async def test_the_blocking_client_replays_recorded_conversations() -> None:
    recorded = [c for c in all_conversations() if c.half_closed]

    def replay(channel: grpc.Channel) -> list[bytes]:
        process: Any = channel.stream_stream(PROCESS)
        return [reply for c in recorded for reply in process(iter(c.chunks), timeout=60)]

    async with lean() as running:
        found = await asyncio.to_thread(blocking, running.address, replay)
        async with running.channel() as channel:
            expected = [reply for c in recorded for reply in await converse(channel, c.chunks)]

    assert len(found) > len(recorded)
    assert found == expected


async def test_the_blocking_client_checks_health_and_is_told_what_is_unknown() -> None:
    def ask(channel: grpc.Channel) -> list[bytes]:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        unknown: Any = channel.unary_unary("/no.Service/Method")
        with pytest.raises(grpc.RpcError) as caught:
            unknown(b"", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        return [check(b"", timeout=60)]

    async with lean() as running:
        (reply,) = await asyncio.to_thread(blocking, running.address, ask)

    assert health_pb2.HealthCheckResponse.FromString(reply).status == health_pb2.HealthCheckResponse.SERVING


# --- defects -----------------------------------------------------------------------------------------------------------


class DefectiveSession(Session):
    def receive(self, data: bytes) -> None:
        super().receive(data)
        if pb.ProcessingRequest.FromString(data).WhichOneof("request") == "request_body":
            raise RuntimeError("a defect")

    def half_closed(self) -> None:
        raise RuntimeError("another")


class DefectiveService(ExtProc):
    def session(self, wake: Callable[[], None]) -> Session:
        return DefectiveSession(self, wake)


@pytest.mark.parametrize("messages", [CONVERSATION[:1], CONVERSATION[:2]], ids=["half-close", "message"])
async def test_a_call_that_crashes_is_answered_internal_and_not_counted_any_more(
    messages: list[pb.ProcessingRequest],
) -> None:
    service = DefectiveService(make_director(TARGET), max_body_bytes=1 << 20)
    server = LeanServer(HealthState(synced=True), service)
    await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await converse(channel, [m.SerializeToString() for m in messages])

        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert (service.open_streams, in_flight(service.director)) == (0, 0)
    await server.stop(grace_s=0)
