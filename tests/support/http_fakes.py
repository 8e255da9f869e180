"""Fake metrics servers on loopback, well behaved and not. Each one is real TCP; ports are free ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from tests.support.ports import free_port

# Answers one request; false ends the connection.
Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


def head(status: str = "200 OK", **fields: object) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


def page(body: bytes, *, status: str = "200 OK") -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(head(status, content_type="text/plain", content_length=len(body)) + body)
        return True

    return behave


def raw(data: bytes, *, stay: bool = False) -> Behaviour:
    """Sends exactly `data`, and then ends the connection or says nothing more on it."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return await hang()(reader, writer) if stay else False

    return behave


def hang() -> Behaviour:
    """Says nothing."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.read()  # until the client gives up
        return False

    return behave


def drip(data: bytes, *, every_s: float) -> Behaviour:
    """Sends `data` byte by byte."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for i in range(len(data)):
            if reader.at_eof():
                return False
            writer.write(data[i : i + 1])
            await asyncio.sleep(every_s)
        return True

    return behave


class FakeServer:
    """Does what `behaviour` says, which a test may change at any time. `connections` are open now, `requests` came ever."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.port = free_port()
        self.requests: list[bytes] = []
        self.accepted = 0
        self._tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._vanished = False
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def start(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        """Always on the same port."""
        self._vanished = False
        self._server = await asyncio.start_server(self._serve, host, self.port, ssl=tls)

    async def stop(self) -> None:
        """Vanish: the port is closed and so are all connections."""
        self._vanished = True
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop_connections()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop_connections(self) -> None:
        for writer in self._tasks.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._vanished:  # since this connection was accepted
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer
        self.accepted += 1
        try:
            # uvloop raises RuntimeError for a connection that is gone.
            with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
                while True:
                    self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                    if not await self.behaviour(reader, writer):
                        break
        finally:
            del self._tasks[task]
            writer.close()


@contextlib.asynccontextmanager
async def serving(behaviour: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeServer]:
    server = FakeServer(behaviour)
    await server.start(tls=tls)
    try:
        yield server
    finally:
        await server.stop()


async def eventually(true: Callable[[], object], *, within_s: float = 60.0) -> None:
    """Return as soon as `true()` is; fail when it is not `within_s`."""
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not true within {within_s} s")
        await asyncio.sleep(0.002)
