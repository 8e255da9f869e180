"""`--http2-limit` reaches the socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

from epp.demo.processes import Children
from epp.http2.frames import HEADER_BYTES, PREFACE, SETTING, SETTINGS_MAX_CONCURRENT_STREAMS, settings
from tests.support.stack import start_epp


async def test_a_limit_from_the_command_line_is_what_a_client_is_told(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        epp = await start_epp(children, "--http2-limit=max-concurrent-streams=7", endpoints=["127.0.0.1:9"])
        reader, writer = await asyncio.open_connection(*epp.grpc.split(":"))
        writer.write(PREFACE + settings([]))
        head = await reader.readexactly(HEADER_BYTES)
        told = await reader.readexactly(int.from_bytes(head[:3], "big"))
        writer.close()
        await writer.wait_closed()

    assert dict(SETTING.iter_unpack(told))[SETTINGS_MAX_CONCURRENT_STREAMS] == 7
