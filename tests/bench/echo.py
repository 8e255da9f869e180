"""The cheapest ext_proc servers there can be: they route in turn, send every body back, and look at nothing.

    python -m tests.bench.echo --transport lean|aio --port N --endpoints HOST:PORT,...

`lean` stands on epp.http2 and asyncio.Protocol, `aio` on grpc.aio; both run on uvloop and share the conversation. What an EPP
costs beyond its echo is its own doing, what the echo costs is the transport's.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

import grpc
import uvloop

from epp.extproc.gen import ext_proc_pb2 as pb
from epp.http2 import GrpcStream, Limits
from tests.support.h2spec_server import EchoProtocol

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
METHOD: Final = "Process"
_CHUNK_BYTES: Final = 62_000
_DESTINATION: Final = "x-gateway-destination-endpoint"
_PASS_HEADERS: Final = pb.ProcessingResponse(response_headers=pb.HeadersResponse()).SerializeToString()
_PASS_REQUEST_TRAILERS: Final = pb.ProcessingResponse(request_trailers=pb.TrailersResponse()).SerializeToString()
_PASS_RESPONSE_TRAILERS: Final = pb.ProcessingResponse(response_trailers=pb.TrailersResponse()).SerializeToString()


class Conversation:
    """One HTTP request, both bodies FULL_DUPLEX_STREAMED or the answer's not sent at all."""

    __slots__ = ("_endpoint", "_parts")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._parts: list[bytes] = []

    def receive(self, data: bytes) -> list[bytes]:
        """The serialized replies to one serialized message."""
        message = pb.ProcessingRequest.FromString(data)
        kind = message.WhichOneof("request")
        if kind == "response_body":
            return [_streamed("response_body", message.response_body.body, end=message.response_body.end_of_stream)]
        if kind == "request_body":
            self._parts.append(message.request_body.body)
            return self._routed() if message.request_body.end_of_stream else []
        if kind == "request_headers":
            return self._routed() if message.request_headers.end_of_stream else []
        if kind == "response_headers":
            return [_PASS_HEADERS]
        return [_PASS_REQUEST_TRAILERS if kind == "request_trailers" else _PASS_RESPONSE_TRAILERS]

    def _routed(self) -> list[bytes]:
        body = b"".join(self._parts)
        reply = pb.ProcessingResponse()
        common = reply.request_headers.response
        common.clear_route_cache = True
        for name, value in ((_DESTINATION, self._endpoint), ("content-length", str(len(body)))):
            option = common.header_mutation.set_headers.add()
            option.header.key = name
            option.header.raw_value = value.encode()
            option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        starts = range(0, len(body), _CHUNK_BYTES)
        chunks = [
            _streamed("request_body", body[start : start + _CHUNK_BYTES], end=start + _CHUNK_BYTES >= len(body))
            for start in starts
        ]
        return [reply.SerializeToString(), *chunks]


def _streamed(kind: str, body: bytes, *, end: bool) -> bytes:
    reply = pb.ProcessingResponse()
    streamed = getattr(reply, kind).response.body_mutation.streamed_response
    streamed.body = body
    streamed.end_of_stream = end
    return reply.SerializeToString()


class LeanCall:
    """A conversation on one stream of epp.http2."""

    __slots__ = ("_conversation", "_stream")

    def __init__(self, stream: GrpcStream, endpoint: str) -> None:
        self._stream = stream
        self._conversation = Conversation(endpoint)

    def on_message(self, message: bytes) -> None:
        for reply in self._conversation.receive(message):
            self._stream.send_message(reply)

    def on_half_close(self) -> None:
        self._stream.finish()

    def on_reset(self, code: int) -> None:
        pass

    def on_writable(self) -> None:
        pass


class LeanApplication:
    """Answers ext_proc calls; a crash ends the program, for an echo that fails measures nothing."""

    def __init__(self, endpoints: Iterator[str]) -> None:
        self._endpoints = endpoints

    def on_open(self, stream: GrpcStream) -> LeanCall | None:
        return LeanCall(stream, next(self._endpoints)) if stream.path == f"/{SERVICE}/{METHOD}" else None

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        raise SystemExit(f"the echo crashed: {error!r}")


async def _serve_lean(port: int, endpoints: Iterator[str]) -> None:
    application, limits = LeanApplication(endpoints), Limits()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EchoProtocol(application, limits), "127.0.0.1", port)
    await server.serve_forever()


async def _serve_aio(port: int, endpoints: Iterator[str]) -> None:
    async def process(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        conversation = Conversation(next(endpoints))
        while (message := await context.read()) is not grpc.aio.EOF:
            for reply in conversation.receive(message):  # type: ignore[arg-type]
                await context.write(reply)

    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 1_000_000)])
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(process)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description="a bare ext_proc echo")
    parser.add_argument("--transport", choices=("lean", "aio"), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--endpoints", required=True, help="HOST:PORT,...")
    options = parser.parse_args()
    serve = _serve_lean if options.transport == "lean" else _serve_aio
    uvloop.run(serve(options.port, cycle(options.endpoints.split(","))))


if __name__ == "__main__":
    main()
