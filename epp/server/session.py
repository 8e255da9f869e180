"""One ext_proc conversation on any transport: bytes in, bytes out, and the task that a waiting decision needs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

from google.protobuf.message import DecodeError

from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.director.waiting import Path, Wait
from epp.extproc.exchange import Destination
from epp.extproc.stream import Phase, Stream


class MalformedMessage(Exception):
    """The bytes are not a ProcessingRequest; the RPC ends with INVALID_ARGUMENT."""


class ExtProc:
    """The service `Process`, whatever carries it: makes sessions and knows how many are open."""

    def __init__(self, director: Director, *, max_body_bytes: int) -> None:
        self.director = director
        self.max_body_bytes = max_body_bytes
        self.open_streams = 0

    def session(self, wake: Callable[[], None]) -> Session:
        return Session(self, wake)


def _nobody() -> None:
    """Nobody is left to be woken."""


class Session:
    """After every call send what `take` returns, and end the RPC with OK once `finished`.

    `wake` is called when a decision that had to wait has produced replies. `close` must be called when the RPC has ended,
    in whichever way; calling it twice is harmless.
    """

    __slots__ = ("_exchange", "_open", "_opened_s", "_service", "_stream", "_task", "_wake")

    def __init__(self, service: ExtProc, wake: Callable[[], None]) -> None:
        director = service.director
        self._service = service
        self._exchange = RequestExchange(director, self._suspend)
        self._stream = Stream(self._exchange, max_body_bytes=service.max_body_bytes)
        self._task: asyncio.Task[None] | None = None
        self._wake = wake
        self._open = True
        self._opened_s = director.clock()
        service.open_streams += 1
        director.recorder.stream_opened()

    @property
    def finished(self) -> bool:
        return self._stream.finished

    @property
    def waiting(self) -> bool:
        """A decision has to wait; `wake` will be called."""
        return self._task is not None

    def receive(self, data: bytes) -> None:
        """Take one serialized message. Raises MalformedMessage."""
        try:
            self._stream.receive(data)
        except DecodeError as error:
            raise MalformedMessage(str(error)) from error
        if self._task is not None:
            self._drop_unwanted()

    def half_closed(self) -> None:
        self._stream.half_closed()
        self._drop_unwanted()

    def close(self, code: str) -> None:
        """The RPC has ended with this gRPC status (`OK`, `Canceled`, ...: Go's names)."""
        if not self._open:
            return
        self._open = False
        self._service.open_streams -= 1
        self._stream.aborted()
        self._drop_unwanted()
        self._wake = _nobody  # the transport's call refers to this session: no circle may be left
        recorder = self._service.director.recorder
        if self._stream.unexpected:
            recorder.message_unexpected(self._stream.unexpected)
        recorder.stream_closed(code, self._service.director.clock() - self._opened_s)

    def take(self) -> list[bytes]:
        """The serialized replies that are due, in order."""
        replies = self._stream.replies
        if replies:
            self._stream.replies = []
        return replies

    def _suspend(self, path: Path, wait: Wait) -> None:
        def clean(_: asyncio.Task[None]) -> None:
            # A task that is cancelled before its first step runs none of its own clean-up.
            path.close()
            if inspect.iscoroutine(wait.awaitable):
                wait.awaitable.close()
            elif asyncio.isfuture(wait.awaitable):
                wait.awaitable.cancel()

        self._task = asyncio.get_running_loop().create_task(self._finish(path, wait))
        self._task.add_done_callback(clean)

    def _drop_unwanted(self) -> None:
        if self._task is not None and self._stream.phase is not Phase.DECIDING:
            self._task.cancel()
            self._task = None

    async def _finish(self, path: Path, wait: Wait) -> None:
        try:
            destination = await _drive(path, wait)
        except Exception as error:
            self._task = None
            self._stream.refused(error)
        else:
            self._task = None
            self._stream.routed(self._exchange.decided(destination))
        self._wake()


async def _drive(path: Path, wait: Wait) -> Destination:
    while True:
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes when what it waits for is done.
            async with asyncio.timeout(wait.timeout_s):
                await wait.awaitable
        except BaseException as error:
            step = _step(path, error)
        else:
            step = _step(path, None)
        if isinstance(step, Destination):
            return step
        wait = step


def _step(path: Path, error: BaseException | None) -> Wait | Destination:
    try:
        return path.send(None) if error is None else path.throw(error)
    except StopIteration as done:
        outcome: Destination = done.value
        return outcome
