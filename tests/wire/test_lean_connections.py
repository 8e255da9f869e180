"""Connections of the lean server with clients that no gRPC library would be."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

import pytest

from epp.http2 import Limits
from epp.http2.frames import PING_HEADER, PREFACE, settings
from epp.server.health import HealthState
from epp.server.lean import LeanServer


async def ping_for_ever(writer: asyncio.StreamWriter) -> NoReturn:
    while True:
        writer.write((PING_HEADER + b"no hurry") * 1000)
        await writer.drain()


async def test_a_client_that_never_reads_is_cut_off_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    server = LeanServer(HealthState(), limits=Limits(max_pings_per_window=10**9, write_stall_timeout_s=3.0))
    await server.start("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
    writer.write(PREFACE + settings([]))

    with pytest.raises(ConnectionError), caplog.at_level(logging.WARNING):
        await ping_for_ever(writer)

    await server.stop(grace_s=0)
    writer.close()
    assert [r.message for r in caplog.records] == ["connection failed"]
