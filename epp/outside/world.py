"""The real outside: an HTTP client, a ZeroMQ context, a few threads, training
processes, and tasks, all closed together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, TypeVar

import aiohttp
import zmq
import zmq.asyncio

from epp.api import Dialogue, HttpReply, Job, OutsideError, SharedWork, Subscriber, Subscription, Training
from epp.outside.sockets import SubSocket, dealer
from epp.outside.training import TrainingWorker

_log: Final = logging.getLogger(__name__)
_THREADS: Final = 2
_CONNECTIONS_PER_HOST: Final = 64
_CONNECT_S: Final = 5.0

T = TypeVar("T")


class World:
    """Implements `epp.api.Outside`. Everything is called on one event loop; what is not used is never made."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._subscriptions: set[SubSocket] = set()
        self._zmq: zmq.asyncio.Context | None = None
        self._session: aiohttp.ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._trainings: set[TrainingWorker] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """End all that was begun. Nothing can be begun afterwards."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()
        for training in tuple(self._trainings):
            training.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._zmq is not None:
            self._zmq.destroy(linger=0)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> Job:
        if self._closed:
            work.close()
            raise OutsideError("the service stops")
        task = asyncio.get_running_loop().create_task(_guarded(work, name), name=name)
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            work.close()  # which has not even begun when it was cancelled at once

        task.add_done_callback(over)
        return task

    def shared(self, work: Coroutine[Any, Any, T], *, name: str) -> SharedWork[T]:
        if self._closed:
            work.close()
            raise OutsideError("the service stops")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._shared_ended)
        return _Shared(task)

    def _shared_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits gets it; nobody may have waited

    async def http(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        max_bytes: int = 64 << 20,
    ) -> HttpReply:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client().request(
                    method, url, data=body or None, headers=headers, allow_redirects=False
                ) as response,
            ):
                read = await _at_most(response, max_bytes, url)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise OutsideError(f"{url}: {error or type(error).__name__}") from error
        return HttpReply(response.status, read)

    def subscribe(self, to: Subscriber, address: str, *, bind: bool = False, topic: bytes = b"") -> Subscription:
        context = zmq.Context(self._context())
        socket = SubSocket(context, to, address, bind=bind, topic=topic, closed=self._subscriptions.discard)
        self._subscriptions.add(socket)
        return socket

    def dialogue(self, address: str) -> AbstractAsyncContextManager[Dialogue]:
        return dealer(self._context(), address)

    async def in_thread(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise OutsideError("the service stops")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="epp-outside")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def train(self, in_use: bytes = b"") -> Training:
        if self._closed:
            raise OutsideError("the service stops")

        def ended(end: Callable[[], None]) -> None:
            self._trainings.discard(training)
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(end), name="end of a training process")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

        training = TrainingWorker(in_use, ended=ended)
        self._trainings.add(training)
        return training

    def _context(self) -> zmq.asyncio.Context:
        if self._closed:
            raise OutsideError("the service stops")
        if self._zmq is None:
            self._zmq = zmq.asyncio.Context(io_threads=1)
        return self._zmq

    def _client(self) -> aiohttp.ClientSession:
        if self._closed:
            raise OutsideError("the service stops")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=_CONNECTIONS_PER_HOST)
            # The callers' own time limits count.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self._session


class _Shared(Generic[T]):
    def __init__(self, task: asyncio.Task[T]) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise OutsideError("the service stops") from None
            raise


async def _at_most(response: aiohttp.ClientResponse, limit: int, url: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise OutsideError(f"{url}: the answer has more than {limit} bytes")
    return bytes(body)


async def _guarded(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    # Background work of plugins: what it raises has no other reader.
    except Exception:
        _log.exception("%s has stopped", name)
