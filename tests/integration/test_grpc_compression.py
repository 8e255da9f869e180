"""`--grpc-enable-compression`, by the bytes that come over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from epp.demo.processes import Children
from epp.extproc.exchange import BodyMode
from epp.extproc.gen import ext_proc_pb2 as pb
from tests.support.extproc import request_body, request_headers
from tests.support.stack import start_epp

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
BODY = b'{"model": "m", "prompt": "' + b"the same again, " * 3_000 + b'"}'


async def relayed(address: str, counted: Callable[[int], None]) -> asyncio.Server:
    """A server that passes bytes on to `address` and back, and counts those that come back."""
    host, port = address.split(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]) -> None:
        while data := await reader.read(1 << 16):
            count(len(data))
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, to_writer, lambda _: None), copy(to_reader, writer, counted))

    return await asyncio.start_server(relay, "127.0.0.1", 0)


@pytest.mark.parametrize("transport", ["lean", "grpcio"])
@pytest.mark.parametrize("compress", [False, True])
async def test_replies_are_compressed_where_that_is_wanted(transport: str, compress: bool, tmp_path: Path) -> None:
    came = 0

    def counted(size: int) -> None:
        nonlocal came
        came += size

    mode = BodyMode.FULL_DUPLEX_STREAMED
    messages = (request_headers(request_mode=mode, response_mode=mode), request_body(BODY, end=True))
    flags = [f"--transport={transport}", f"--grpc-enable-compression={str(compress).lower()}"]
    async with Children(tmp_path) as children:
        epp = await start_epp(children, *flags, endpoints=["127.0.0.1:9"])
        relay = await relayed(epp.grpc, counted)
        async with (
            relay,
            grpc.aio.insecure_channel(f"127.0.0.1:{relay.sockets[0].getsockname()[1]}") as channel,
        ):
            call = channel.stream_stream(PROCESS)()
            for message in messages:
                await call.write(message.SerializeToString())
            replies = [pb.ProcessingResponse.FromString(await call.read()) for _ in messages]
            call.cancel()

    sent = replies[-1].request_body.response.body_mutation.streamed_response.body
    assert sent == BODY
    assert (came < len(BODY) / 10) is compress
