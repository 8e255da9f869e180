"""What a large body costs in memory: the peak of a running `epp run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from epp.demo.processes import Children
from epp.extproc.exchange import BodyMode
from tests.support.extproc import request_body, request_headers
from tests.support.processes import status
from tests.support.stack import Epp, start_epp

PIECE_BYTES = 16_384  # as large as Envoy's
PIECES = 5_000
TEXTS = {"plain": "hello world, ", "escapes": "hello\\nworld, ", "wide": "hello wörld 😀, "}
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
MODE = BodyMode.FULL_DUPLEX_STREAMED


def peak_bytes(epp: Epp) -> int:
    return int(status(epp.child.pid)["VmHWM"].split()[0]) * 1024


def messages(piece: bytes) -> Iterator[bytes]:
    """Each is made when it is its turn: the client shall not be what is short of memory."""
    yield request_headers(request_mode=MODE, response_mode=MODE).SerializeToString()
    yield request_body(b'{"model": "m", "prompt": "').SerializeToString()
    for _ in range(PIECES):
        yield request_body(piece).SerializeToString()
    yield request_body(b'"}', end=True).SerializeToString()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_large_body_is_in_memory_about_twice(text: str, tmp_path: Path) -> None:
    """Once as it came, and once as what the moment needs: its text while it is read, its pieces while they are sent on."""
    piece = text.encode() * (PIECE_BYTES // len(text.encode()))
    body_bytes = len(piece) * PIECES
    async with Children(tmp_path) as children:
        epp = await start_epp(children, endpoints=["127.0.0.1:9"])
        before = peak_bytes(epp)
        async with grpc.aio.insecure_channel(epp.grpc) as channel:
            call = channel.stream_stream(PROCESS)()
            for message in messages(piece):
                await call.write(message)
            sent = 0
            while sent < body_bytes:
                sent += len(await call.read())
            call.cancel()
        peak = peak_bytes(epp) - before

    assert peak / body_bytes < 2.4
