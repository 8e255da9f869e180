"""Records conversations with a real Envoy: `python -m tests.support.record`.

Starts a small model server, an ext_proc server that routes everything to it and writes down what Envoy sends, and an Envoy
for every pair of body modes; then sends the requests below through each. Files go to tests/fixtures/conversations/envoy-X.Y/.
For a version other than the installed one: `ENVOY=$(python -m tests.support.envoy_versions 1.38.3) python -m ...`.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import h2.connection
import h2.events
from aiohttp import web

from epp.demo.envoy import find_envoy, start_envoy
from epp.demo.processes import Children
from epp.envoy.bootstrap import bootstrap
from epp.envoy.options import BodyMode, BootstrapOptions
from epp.extproc.exchange import Destination
from epp.extproc.stream import Stream
from epp.server.health import EXT_PROC_SERVICE
from tests.support.conversations import FOLDER, write
from tests.support.extproc import ScriptedExchange

JSON = {"content-type": "application/json"}
ANSWER = {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [{"text": "hi", "index": 0}]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
# Only these say something about the protocol; the rest differs from host to host.
PAIRS = [
    (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED),
    (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.NONE),
    (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.STREAMED),
    (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED),
    (BodyMode.BUFFERED, BodyMode.BUFFERED),
    (BodyMode.BUFFERED, BodyMode.NONE),
    (BodyMode.STREAMED, BodyMode.STREAMED),
    (BodyMode.NONE, BodyMode.NONE),
]


async def _complete(request: web.Request) -> web.StreamResponse:
    try:
        body = await request.json()
    except ValueError:
        body = {}
    if not (isinstance(body, dict) and body.get("stream")):
        return web.json_response(ANSWER | {"usage": USAGE})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for event in (ANSWER, ANSWER, {"object": "text_completion", "model": "m", "choices": [], "usage": USAGE}):
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await asyncio.sleep(0.02)  # apart, so that each is a message of its own
        if request.headers.get("x-abort"):
            await asyncio.sleep(5)
            return response
    await response.write(b"data: [DONE]\n\n")
    return response


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "m"}]})


class Recorder:
    """Answers as the EPP does, through the real stream, and keeps what came in."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.streams: asyncio.Queue[tuple[list[bytes], bool]] = asyncio.Queue()

    async def process(self, _: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        exchange = ScriptedExchange()
        exchange.destination = Destination(self._target)
        stream = Stream(exchange, max_body_bytes=1 << 30)
        messages: list[bytes] = []
        half_closed = False
        try:
            while not half_closed and not stream.finished:
                data: Any = await context.read()
                half_closed = data is grpc.aio.EOF
                if half_closed:
                    break
                messages.append(data)
                stream.receive(data)
                for reply in stream.replies:
                    await context.write(reply)
                stream.replies.clear()
        finally:
            self.streams.put_nowait((messages, half_closed))


async def _post(url: str, body: Any, **headers: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", data=json.dumps(body), headers=JSON | headers) as response,
    ):
        await response.read()


async def _sse(url: str) -> None:
    await _post(url, {"model": "m", "prompt": "hello", "stream": True, "stream_options": {"include_usage": True}})


async def _json(url: str) -> None:
    await _post(url, {"model": "m", "prompt": "hello"})


async def _large(url: str) -> None:
    await _post(url, {"model": "m", "prompt": "x" * 70_000})


async def _get(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as response:
        await response.read()


async def _abort(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        body = json.dumps({"model": "m", "prompt": "hello", "stream": True})
        response = await session.post(f"{url}/v1/completions", data=body, headers=JSON | {"x-abort": "1"})
        await response.content.readany()
        response.close()


async def _trailers(url: str) -> None:
    """A POST over HTTP/2 whose body is ended by trailers."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = h2.connection.H2Connection()
    client.initiate_connection()
    head = [(":method", "POST"), (":path", "/v1/completions"), (":scheme", "http"), (":authority", "m.test")]
    client.send_headers(1, [*head, ("content-type", "application/json"), ("te", "trailers")])
    client.send_data(1, json.dumps({"model": "m", "prompt": "hello"}).encode())
    client.send_headers(1, [("x-checksum", "abc")], end_stream=True)
    writer.write(client.data_to_send())
    ended = False
    while not ended:
        for event in client.receive_data(await reader.read(65536)):
            ended = ended or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
        writer.write(client.data_to_send())
    writer.close()


REQUESTS: dict[str, Callable[[str], Awaitable[None]]] = {
    "sse": _sse,
    "json": _json,
    "large": _large,
    "get": _get,
    "trailers": _trailers,
    "abort": _abort,
}


def requests_for(request_mode: BodyMode, response_mode: BodyMode) -> dict[str, Callable[[str], Awaitable[None]]]:
    """All of them, but the large one once for each request mode: how the response comes has no part in it."""
    first = next(pair for pair in PAIRS if pair[0] is request_mode)
    return {name: send for name, send in REQUESTS.items() if name != "large" or first == (request_mode, response_mode)}


def envoy_version() -> str:
    """Major and minor."""
    text = subprocess.run([str(find_envoy()), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"/(\d+\.\d+)\.\d+", text)
    assert found is not None, text
    return found.group(1)


async def record(folder: Path) -> None:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/completions", _complete)
    app.router.add_get("/v1/models", _models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    target = f"127.0.0.1:{runner.addresses[0][1]}"
    recorder = Recorder(target)
    server = grpc.aio.server()
    process: Any = grpc.stream_stream_rpc_method_handler(recorder.process)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": process}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with tempfile.TemporaryDirectory() as work:
        async with Children(Path(work)) as children:
            for request_mode, response_mode in PAIRS:
                pair = f"{request_mode.value}-{response_mode.value}".lower()
                options = BootstrapOptions(
                    epp=f"127.0.0.1:{port}", request_body=request_mode, response_body=response_mode
                )
                envoy = await start_envoy(children, bootstrap(options), Path(work), name=pair)
                for name, send in requests_for(request_mode, response_mode).items():
                    await asyncio.wait_for(send(envoy.url), 20)
                    messages, half_closed = await asyncio.wait_for(recorder.streams.get(), 20)
                    write(folder / pair / f"{name}.txtpb", messages, half_closed=half_closed)
                    print(f"{pair}/{name}: {len(messages)} messages", flush=True)
                await envoy.stop()
    await server.stop(0)
    await runner.cleanup()


if __name__ == "__main__":
    sys.exit(asyncio.run(record(FOLDER / f"envoy-{envoy_version()}")))
