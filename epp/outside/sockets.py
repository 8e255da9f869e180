"""ZeroMQ sockets on the event loop.

A socket's descriptor becomes readable when something may have changed, not for each message: whoever is woken reads until
nothing is left, a bounded number at a time, so that a flood of messages holds up no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from epp.api import OutsideError, Subscriber

_log: Final = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # messages
_AT_ONCE_S: Final = 0.002
_MOST_WAITING: Final = 100_000  # messages that ZeroMQ keeps; vLLM's publisher keeps as many
_RECONNECT_MS: Final = 100
_LONGEST_RECONNECT_MS: Final = 5_000
_HEARTBEAT_MS: Final = 5_000  # a host that vanishes without a word is noticed after about two of these

_FAILURES: Final = (
    zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_EVENTS: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _FAILURES

T = TypeVar("T")


class SubSocket:
    """A SUB socket. Implements `epp.api.Subscription`; `closed` is told once it is."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        to: Subscriber,
        address: str,
        *,
        bind: bool,
        topic: bytes,
        closed: Callable[[SubSocket], None],
    ) -> None:
        self._to = to
        self._address = address
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] | None = context.socket(zmq.SUB)
        self._again: asyncio.Handle | None = None
        self._told_more = False
        self._silent = not bind  # nobody has answered, nor has that been said
        socket = self._socket
        socket.linger = 0
        socket.rcvhwm = _MOST_WAITING
        socket.reconnect_ivl = _RECONNECT_MS
        socket.reconnect_ivl_max = _LONGEST_RECONNECT_MS
        socket.heartbeat_ivl = socket.heartbeat_timeout = _HEARTBEAT_MS
        if "[" in address:
            socket.ipv6 = True
        socket.subscribe(topic)
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._descriptors = (int(socket.fd), int(self._monitor.fd))
        try:
            socket.bind(address) if bind else socket.connect(address)
        except zmq.ZMQError as error:
            self._shut()
            raise OutsideError(f"{address}: {error}") from error
        for descriptor in self._descriptors:
            self._loop.add_reader(descriptor, self._readable)
        self._again = self._loop.call_soon(self._readable)

    @property
    def address(self) -> str:
        """Where it is bound, or connects to."""
        assert self._socket is not None
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        if self._socket is None:
            return
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
        self._shut()
        self._closed(self)

    def _shut(self) -> None:
        socket, self._socket = self._socket, None
        if self._again is not None:
            self._again.cancel()
        if socket is not None:
            socket.disable_monitor()
            self._monitor.close(0)
            socket.close(0)

    def _readable(self) -> None:
        self._again = None
        try:
            self._read_monitor()
            self._read_messages()
        # Whoever listens is a plugin: what it raises must not end the reading.
        except Exception:
            _log.exception("what %s published could not be taken in", self._address)
            self._read_again()

    def _read_monitor(self) -> None:
        while self._socket is not None and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            # What came before the change is told before it.
            self._read_messages()
            if self._socket is None:
                return
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._silent = False
                self._to.connected()
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._to.disconnected()
            elif self._silent:
                self._silent = False
                _log.warning("nobody publishes at %s; it is tried again and again", self._address)

    def _read_messages(self) -> None:
        messages: list[list[bytes]] = []
        until = time.monotonic() + _AT_ONCE_S
        more = True
        while self._socket is not None and len(messages) < _AT_ONCE and time.monotonic() < until:
            try:
                messages.append(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                more = False
                break
        if self._socket is None:
            return
        if more:
            self._read_again()
        if messages or (self._told_more and not more):
            self._told_more = more
            self._to.received(messages, more=more)

    def _read_again(self) -> None:
        if self._socket is not None and self._again is None:
            self._again = self._loop.call_soon(self._readable)


class DealerSocket:
    """Implements `epp.api.Dialogue`."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket

    async def send(self, frames: Sequence[bytes]) -> None:
        await self._socket.send_multipart(list(frames))

    async def receive(self, *, idle_s: float) -> AsyncIterator[list[bytes]]:
        while True:
            async with asyncio.timeout(idle_s):
                message: list[bytes] = await self._socket.recv_multipart()
            yield message


@contextlib.asynccontextmanager
async def dealer(context: zmq.asyncio.Context, address: str) -> AsyncIterator[DealerSocket]:
    """A DEALER socket that is connected, or will be: ZeroMQ does not say."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.rcvhwm = _MOST_WAITING
    if "[" in address:
        socket.ipv6 = True
    try:
        socket.connect(address)
        yield DealerSocket(socket)
    except zmq.ZMQError as error:
        raise OutsideError(f"{address}: {error}") from error
    finally:
        socket.close(0)
