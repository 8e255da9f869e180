"""The shell over our own HTTP/2 core (`epp.http2`): an asyncio.Protocol per connection, no task per RPC.

All that one read of the socket produced goes out in one write. Between the bytes of a request and the bytes of its reply
there are plain calls only, unless a decision has to wait.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, cast

from google.protobuf.message import DecodeError, Message

from epp.api import host_port
from epp.http2 import Application, Connection, GrpcStream, Limits, Status, StreamHandler
from epp.server.gen import health_pb2
from epp.server.health import EXT_PROC_SERVICE, HEALTH_SERVICE, HealthState
from epp.server.health_replies import check_reply, list_reply
from epp.server.session import ExtProc, MalformedMessage

_log: Final = logging.getLogger(__name__)
# How often time-outs are looked at. Deadlines of calls are kept exactly, by `next_deadline`.
_TICK_S: Final = 1.0
PROCESS: Final = f"/{EXT_PROC_SERVICE}/Process"
CHECK: Final = f"/{HEALTH_SERVICE}/Check"
LIST: Final = f"/{HEALTH_SERVICE}/List"
WATCH: Final = f"/{HEALTH_SERVICE}/Watch"


class ProcessCall:
    """One ext_proc conversation. Replies that the client does not take yet wait here, and its requests with them."""

    __slots__ = ("_blocked", "_compress", "_flush", "_session", "_stream", "_unsent")

    def __init__(
        self, service: ExtProc, stream: GrpcStream, flush: Callable[[], None], *, compress: bool = False
    ) -> None:
        self._stream = stream
        self._compress = compress and stream.compress_replies()
        self._flush = flush
        self._unsent: deque[bytes] = deque()
        self._blocked = False
        self._session = service.session(self._woken)

    def on_message(self, message: bytes) -> None:
        try:
            self._session.receive(message)
        except MalformedMessage as error:
            self._session.close("InvalidArgument")
            self._stream.finish(Status.INVALID_ARGUMENT, f"malformed ProcessingRequest: {error}")
            return
        except Exception:
            self._session.close("Internal")  # a handler that has raised hears nothing more
            raise
        self._send()

    def on_half_close(self) -> None:
        try:
            self._session.half_closed()
        except Exception:
            self._session.close("Internal")
            raise
        self._send()

    def on_reset(self, code: int) -> None:
        self._unsent.clear()
        self._session.close("Canceled")

    def on_writable(self) -> None:
        self._blocked = False
        self._stream.resume_reading()
        self._send()

    def _woken(self) -> None:
        self._send()
        self._flush()

    def _send(self) -> None:
        session, stream, unsent = self._session, self._stream, self._unsent
        unsent.extend(session.take())
        while unsent and not self._blocked:
            if not stream.send_message(unsent.popleft(), compress=self._compress):
                self._blocked = True
                stream.pause_reading()
        if session.finished and not unsent:
            session.close("OK")
            stream.finish()


class UnaryCall:
    """A call of one message each way. `answer` may raise DecodeError."""

    __slots__ = ("_answer", "_request", "_stream")

    def __init__(self, stream: GrpcStream, answer: Callable[[bytes], Message]) -> None:
        self._stream = stream
        self._answer = answer
        self._request: bytes | None = None

    def on_message(self, message: bytes) -> None:
        if self._request is not None:
            self._stream.finish(Status.INTERNAL, "expected one request message")
            return
        self._request = message

    def on_half_close(self) -> None:
        if self._request is None:
            self._stream.finish(Status.INTERNAL, "expected one request message")
            return
        try:
            reply = self._answer(self._request)
        except DecodeError as error:
            self._stream.finish(Status.INVALID_ARGUMENT, f"malformed request: {error}")
            return
        self._stream.send_message(reply.SerializeToString())
        self._stream.finish()

    def on_reset(self, code: int) -> None:
        """Nothing is held."""

    def on_writable(self) -> None:
        """Nothing waits: the one reply is sent whatever the queue."""


class LeanServer:
    """Serves ext_proc (where `service` is given) and gRPC health on one port. `port` is known after `start`.

    `compress`: replies of ext_proc are gzip'd for clients that accept it.
    """

    def __init__(
        self,
        health: HealthState,
        service: ExtProc | None = None,
        *,
        limits: Limits | None = None,
        compress: bool = False,
    ) -> None:
        self._health = health
        self._service = service
        self._limits = limits or Limits()
        self._compress = compress
        self._server: asyncio.Server | None = None
        self._connections: set[_LeanProtocol] = set()
        self._all_gone = asyncio.Event()
        self._ticker: asyncio.TimerHandle | None = None
        self.port = 0

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Raises OSError when the port cannot be bound."""
        loop = asyncio.get_running_loop()
        handshake_s = None if tls is None else self._limits.handshake_timeout_s or inf
        self._server = await loop.create_server(
            lambda: _LeanProtocol(self), host, port, ssl=tls, ssl_handshake_timeout=handshake_s
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._tick()

    async def stop(self, *, grace_s: float) -> None:
        """Take no new connections, let streams in progress end for `grace_s` seconds, then cut them."""
        if self._server is not None:
            self._server.close()
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._connections):
            connection.go_away(now)
        if self._connections and grace_s > 0:
            self._all_gone.clear()
            try:
                await asyncio.wait_for(self._all_gone.wait(), grace_s)
            except TimeoutError:
                _log.info("streams are cut", extra={"fields": {"open_streams": self.open_streams}})
        for connection in tuple(self._connections):
            connection.abort()
        if self._ticker is not None:
            self._ticker.cancel()

    @property
    def open_streams(self) -> int:
        return sum(c.http2.open_streams for c in self._connections)

    # --- for its connections -----------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        return self._limits

    def connected(self, connection: _LeanProtocol) -> None:
        self._connections.add(connection)

    def disconnected(self, connection: _LeanProtocol) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def open_call(self, stream: GrpcStream, flush: Callable[[], None]) -> StreamHandler | None:
        """The handler of a new call; None for methods that are not here."""
        path = stream.path
        if path == PROCESS and self._service is not None:
            return ProcessCall(self._service, stream, flush, compress=self._compress)
        if path == CHECK:
            return UnaryCall(stream, self._check)
        if path == LIST:
            return UnaryCall(stream, self._list)
        if path == WATCH:
            stream.finish(Status.UNIMPLEMENTED, "Watch is not implemented")
        return None

    def _check(self, request: bytes) -> Message:
        return check_reply(self._health, health_pb2.HealthCheckRequest.FromString(request))

    def _list(self, request: bytes) -> Message:
        health_pb2.HealthListRequest.FromString(request)
        return list_reply(self._health)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in tuple(self._connections):
            connection.expire(now)
        self._ticker = loop.call_later(_TICK_S, self._tick)


class _LeanProtocol(asyncio.Protocol, Application):
    """One connection: bytes to the core, the core's bytes to the socket."""

    __slots__ = ("_loop", "_server", "_timer", "_transport", "http2")

    def __init__(self, server: LeanServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        """For the next deadline of a call; in the end, for the last words to be taken."""
        self.http2 = Connection(self, self._loop.time(), limits=server.limits)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connected(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.http2.receive(data, self._loop.time())
        self._flush()

    def pause_writing(self) -> None:
        self.http2.pause_writing()

    def resume_writing(self) -> None:
        self.http2.resume_writing()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.disconnected(self)
        self.http2.connection_lost()

    # the server's side

    def go_away(self, now: float) -> None:
        self.http2.go_away(now)
        self._flush()

    def abort(self) -> None:
        self.http2.close()
        self._flush()

    def expire(self, now: float) -> None:
        self.http2.expire(now)
        self._flush()

    # the core's side

    def on_open(self, stream: GrpcStream) -> StreamHandler | None:
        if stream.deadline is not None and (self._timer is None or stream.deadline < self._timer.when()):
            self._wake_at(stream.deadline)
        return self._server.open_call(stream, self._flush)

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        _log.error("a call has crashed", exc_info=error, extra={"fields": {"path": stream.path}})

    def _wake_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire_calls)

    def _expire_calls(self) -> None:
        self._timer = None
        self.expire(self._loop.time())
        due = self.http2.next_deadline()
        if due < inf and self.http2.open_streams:
            self._wake_at(due)

    def _flush(self) -> None:
        while output := self.http2.data_to_send():
            self._transport.write(output)
        if self.http2.closed and not self._transport.is_closing():
            if self.http2.error is not None:
                _log.warning(
                    "connection failed", extra={"fields": {"peer": self._peer(), "problem": str(self.http2.error)}}
                )
            self._transport.close()
            self._abort_if_not_taken()

    def _peer(self) -> str:
        address = self._transport.get_extra_info("peername")
        return host_port(*address[:2]) if address else ""

    def _abort_if_not_taken(self) -> None:
        # `close` waits without end for a client that does not take the last words.
        if self._timer is not None:
            self._timer.cancel()
        patience_s = self.http2.limits.write_stall_timeout_s
        self._timer = self._loop.call_later(patience_s, self._transport.abort) if patience_s else None
