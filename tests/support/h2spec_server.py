"""A tiny echo server over `epp.http2`: the shell that h2spec, the interop tests and the benchmark talk to.

Run as a module it prints its port (chosen by the kernel) on one line and serves until it is killed; `--uvloop` picks the loop.
`/echo.Echo/Echo` answers every message with itself, gzipped where the client accepts and asks for it by `echo-gzip: 1`.
"""

import asyncio
import sys
from typing import cast

from epp.http2 import Connection, GrpcStream, Limits, Status

METHOD = "/echo.Echo/Echo"
TICK_S = 0.02  # short, since tests wait for deadlines


class EchoHandler:
    """Says every message back, and OK at the end."""

    __slots__ = ("compress", "stream")

    def __init__(self, stream: GrpcStream) -> None:
        self.stream = stream
        self.compress = ("echo-gzip", "1") in stream.headers and stream.compress_replies()

    def on_message(self, message: bytes) -> None:
        if not self.stream.send_message(message, compress=self.compress):
            self.stream.pause_reading()

    def on_half_close(self) -> None:
        self.stream.finish()

    def on_reset(self, code: int) -> None:
        pass

    def on_writable(self) -> None:
        self.stream.resume_reading()


class EchoApplication:
    """One method; remembers crashes, of which there should be none."""

    def __init__(self) -> None:
        self.crashes: list[Exception] = []

    def on_open(self, stream: GrpcStream) -> EchoHandler | None:
        if ("fail-with", "7") in stream.headers:
            stream.finish(Status.PERMISSION_DENIED, "not you, 100% née", [("why-bin", b"\x00\xff")])
        return EchoHandler(stream) if stream.path == METHOD else None

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        self.crashes.append(error)


class EchoProtocol(asyncio.Protocol):
    """The smallest whole shell: reads in, writes out, time-outs, backpressure."""

    def __init__(self, application: EchoApplication, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._application = application
        self._limits = limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connection = Connection(self._application, self._loop.time(), limits=self._limits)
        self._tick = self._loop.call_later(TICK_S, self._expire)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._connection.receive(data, self._loop.time())
        self._flush()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tick.cancel()
        self._connection.connection_lost()

    def _expire(self) -> None:
        self._connection.expire(self._loop.time())
        self._flush()
        self._tick = self._loop.call_later(TICK_S, self._expire)

    def _flush(self) -> None:
        while output := self._connection.data_to_send():
            self._transport.write(output)
        if self._connection.closed and not self._transport.is_closing():
            self._transport.close()


async def start(application: EchoApplication | None = None, limits: Limits | None = None) -> asyncio.Server:
    """Listen on a free port of 127.0.0.1."""
    shared = application or EchoApplication()
    chosen = limits or Limits()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: EchoProtocol(shared, chosen), "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    return cast(int, server.sockets[0].getsockname()[1])


async def _serve() -> None:
    server = await start()
    print(port_of(server), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.run(_serve())
    else:
        asyncio.run(_serve())
