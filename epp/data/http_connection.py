"""One keep-alive connection to a model server's metrics page: an asyncio protocol around `http_response`.

It is told to send a request, and tells its owner of the response or of the connection's end. It has no clock: the owner
decides how long to wait, and calls `abort` when it is too long.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from epp.data.http_response import HttpError, HttpResponse, ResponseReader


class ConnectionOwner(Protocol):
    """Who uses a connection. Each call names it, because an owner may have given it up already."""

    def connected(self, connection: HttpConnection) -> None: ...

    def answered(self, connection: HttpConnection, response: HttpResponse) -> None: ...

    def disconnected(self, connection: HttpConnection, reason: str) -> None:
        """The end, told exactly once. `connection.retriable` says whether a request sent on it may just be sent again."""
        ...


class HttpConnection(asyncio.BufferedProtocol):
    """`busy` while a response is awaited. `responses` counts those that came.

    Reads into `buffer`, which all connections of one event loop may share: the loop asks for it, reads and hands over what it
    read in one step. A buffer of its own for each read, as a plain protocol gets, costs more than reading the page from it.
    """

    def __init__(self, owner: ConnectionOwner, *, buffer: memoryview, max_body_bytes: int) -> None:
        self._buffer = buffer
        self._owner = owner
        self._reader = ResponseReader(max_body_bytes=max_body_bytes)
        self._transport: asyncio.Transport | None = None
        self._reason = ""
        self.busy = False
        self.responses = 0

    @property
    def retriable(self) -> bool:
        """It ended as an idle connection may at any time: after a response, and before a byte of the next one."""
        return not self._reason and self.responses > 0 and not self._reader.began

    def send(self, request: bytes) -> None:
        """Send the bytes of one request. Not while `busy`."""
        if self.busy or self._transport is None:
            raise RuntimeError("a connection takes one request at a time, once it is open")
        self.busy = True
        self._transport.write(request)

    def abort(self) -> None:
        """Close it without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    # --- called by asyncio -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's
        self._owner.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(self._buffer[:nbytes]))

    def _received(self, data: bytes) -> None:
        if self._reason:
            return
        if not self.busy:
            self._fail("data came that nobody asked for")
            return
        try:
            response = self._reader.feed(data)
        except HttpError as error:
            self._fail(str(error))
            return
        if response is not None:
            self._deliver(response)

    def eof_received(self) -> None:
        if self._reason:
            return
        try:
            response = self._reader.end()
        except HttpError as error:
            self._fail(str(error))
            return
        if response is not None and self.busy:
            self._deliver(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._owner.disconnected(self, self._reason or str(exc or "the server closed the connection"))

    def _deliver(self, response: HttpResponse) -> None:
        self.busy = False
        self.responses += 1
        if not response.reusable:
            self.abort()
        self._owner.answered(self, response)

    def _fail(self, reason: str) -> None:
        self._reason = reason
        self.abort()
