"""Connections of the lean server with clients that no gRPC library would be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
import pytest
from hpack import Encoder

from epp.api import host_port
from epp.http2 import Limits
from epp.http2.frames import DATA, END_HEADERS, HEADERS, PING_HEADER, PREFACE, frame, settings
from epp.server.health import HealthState
from epp.server.lean import PROCESS, LeanServer
from epp.server.session import ExtProc
from epp.server.tls import Certificate, ssl_context
from tests.support.extproc import request_body, request_headers
from tests.support.http2_peer import message, parse
from tests.support.service import make_director, serving

CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PROCESS),
    (":authority", "epp"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
CALLS = (1, 3, 5)
REQUEST = [request_headers(), request_body(b'{"model": "m", "prompt": "hello"}', end=True)]


class Wire(asyncio.Transport):
    """Takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


async def connection_of(server: LeanServer, monkeypatch: pytest.MonkeyPatch) -> asyncio.Protocol:
    """What the server would give to the next client, without a socket."""
    made: list[Callable[[], asyncio.Protocol]] = []
    create = asyncio.get_running_loop().create_server

    async def create_server(factory: Callable[[], asyncio.Protocol], *where: Any, **how: Any) -> asyncio.Server:
        made.append(factory)
        return await create(factory, *where, **how)

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "create_server", create_server)
        await server.start("127.0.0.1", 0)
    return made[0]()


async def test_what_one_read_asks_for_is_answered_in_one_write_and_without_a_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = LeanServer(HealthState(synced=True), ExtProc(make_director("127.0.0.1:8000"), max_body_bytes=1 << 20))
    connection, wire = await connection_of(server, monkeypatch), Wire()
    connection.connection_made(wire)
    connection.data_received(PREFACE + settings([]))
    wire.written.clear()
    head, asked = Encoder().encode(CALL), b"".join(message(m.SerializeToString()) for m in REQUEST)
    tasks = asyncio.all_tasks()

    connection.data_received(
        b"".join(frame(HEADERS, END_HEADERS, stream_id, head) + frame(DATA, 0, stream_id, asked) for stream_id in CALLS)
    )

    assert asyncio.all_tasks() == tasks
    (output,) = wire.written
    assert Counter(f.stream_id for f in parse(output) if f.kind == DATA) == dict.fromkeys(CALLS, 2)
    connection.connection_lost(None)
    await server.stop(grace_s=0)


async def ping_for_ever(writer: asyncio.StreamWriter) -> NoReturn:
    while True:
        writer.write((PING_HEADER + b"no hurry") * 1000)
        await writer.drain()


async def test_a_client_that_never_reads_is_cut_off_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    server = LeanServer(HealthState(), limits=Limits(max_pings_per_window=10**9, write_stall_timeout_s=3.0))
    await server.start("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
    address = host_port(*writer.get_extra_info("sockname"))
    writer.write(PREFACE + settings([]))

    with pytest.raises(ConnectionError), caplog.at_level(logging.WARNING):
        await ping_for_ever(writer)

    await server.stop(grace_s=0)
    writer.close()
    (record,) = caplog.records
    assert (record.message, record.__dict__["fields"]["peer"]) == ("connection failed", address)


async def test_a_client_that_says_nothing_in_tls_is_cut_off_by_the_limit_for_handshakes() -> None:
    server = LeanServer(HealthState(), limits=Limits(handshake_timeout_s=0.1))
    await server.start("127.0.0.1", 0, tls=ssl_context(Certificate()))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async with asyncio.timeout(30):  # asyncio's own limit is 60 s
        assert await reader.read() == b""

    await server.stop(grace_s=0)
    writer.close()


async def test_a_deadline_is_kept_exactly_beside_a_later_one() -> None:
    async with serving("lean", make_director("127.0.0.1:8000")) as running, running.channel() as channel:
        patient = begun(channel, "60S")
        await patient.write(request_headers().SerializeToString())
        took_s = [await until_its_deadline(channel) for _ in range(8)]
        patient.cancel()

    # Time-outs that need not be exact are looked at once a second.
    assert min(took_s[1:]) < 0.5


async def until_its_deadline(channel: grpc.aio.Channel) -> float:
    begin = time.monotonic()
    assert await begun(channel, "50m").code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return time.monotonic() - begin


def begun(channel: grpc.aio.Channel, timeout: str) -> Any:
    """A call whose deadline the server alone knows: with one of its own, the client ends the call by itself."""
    return channel.stream_stream(PROCESS)(metadata=(("grpc-timeout", timeout),))
