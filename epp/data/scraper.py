"""Fetches from one endpoint again and again, at its own pace, for as long as the endpoint is there.

One timer and one keep-alive connection, no task while it is connected: a fetch is a write, a read and what the target makes of
the body. At most one request is under way. What fails is tried again ever more slowly, and what the target knows is forgotten
when it is too old.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from epp.data.http_connection import HttpConnection
from epp.data.http_response import HttpResponse
from epp.data.source_errors import SourceErrors

_log: Final = logging.getLogger(__name__)

MAX_BACKOFF_S: Final = 1.0


class Target(Protocol):
    """What is asked of one endpoint, and what becomes of the answer."""

    @property
    def name(self) -> str:
        """What the answers are taken for, for people: the engine, the extractors."""
        ...

    def request(self) -> bytes:
        """The bytes of the next request."""
        ...

    def take(self, body: bytes) -> str:
        """Keep what the body says. Empty, or what is wrong with it."""
        ...

    def forget(self) -> None:
        """What was taken is too old to be used, or there has never been any."""
        ...

    def silent(self, is_silent: bool) -> None:
        """For as long as what was taken could be used nothing has answered at all, nor does now; or something does again."""
        ...

    def is_idle(self) -> bool:
        """The last body said the same as the one before, and nobody is known to do anything there."""
        ...


class Pace(msgspec.Struct, frozen=True):
    """How often an endpoint is asked, all in seconds.

    Every `interval_s`; an idle one less and less often, but every `idle_interval_s` at least. An answer that takes longer than
    `timeout_s` is a failure. What is older than `stale_after_s` is forgotten (inf: it never is).
    """

    interval_s: float
    timeout_s: float
    idle_interval_s: float = 0.0
    stale_after_s: float = math.inf


class Shared(msgspec.Struct, frozen=True):
    """What all scrapers of a collector use."""

    what: str  # what is fetched, for people
    pace: Pace
    tls: ssl.SSLContext | None
    buffer: memoryview
    max_body_bytes: int
    rng: random.Random
    errors: SourceErrors
    finished: Callable[[Scraper], None]


class Scraper:
    """Its timer ticks for as long as it lives; `_deadline_s` is set while a fetch is under way."""

    def __init__(self, name: str, address: tuple[str, int], target: Target, shared: Shared) -> None:
        self.target = target
        self.address = address
        self.scrapes = 0
        self.failures = 0
        self.connections = 0  # opened so far
        self.body_bytes = 0
        self.last_error = ""
        self._name = name
        self._shared = shared
        self._pace = pace = shared.pace
        self._loop = asyncio.get_running_loop()
        self._connection: HttpConnection | None = None
        self._expected: HttpConnection | None = None  # the one that is being opened
        self._open: set[HttpConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._deadline_s: float | None = None
        self._failures_in_row = 0
        self._silent = False  # the target has been told so
        self._pause_s = 0.0  # how long after the last answer an idle endpoint is not asked
        self._answered_s = -math.inf
        # Endpoints that come together (a restart of the service) shall not be asked in step.
        now = self._loop.time()
        self._stale_s = now + pace.stale_after_s
        self._due_s = now + shared.rng.uniform(0, min(pace.interval_s, MAX_BACKOFF_S))
        self._timer = self._loop.call_at(self._due_s, self._tick)

    # --- the end ---------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Stopped, and nothing is left open."""
        return self._stopped and not self._open and not self._opening

    def stop(self) -> None:
        self._stopped = True
        self._timer.cancel()
        self._disconnect()

    async def wait_finished(self) -> None:
        if not self.finished:
            self._waiter = self._waiter or self._loop.create_future()
            await self._waiter

    def _check_finished(self) -> None:
        if not self.finished:
            return
        self._shared.finished(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- pace ------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now, interval_s = self._loop.time(), self._pace.interval_s
        if now >= self._stale_s:
            self._forget()
        if self._deadline_s is not None:
            if now < self._deadline_s:
                self._wake_at(min(now + interval_s, self._deadline_s))
            else:
                self._disconnect()
                self._fail(f"no answer within {self._pace.timeout_s:g} s", heard=False)
        elif now < self._due_s - interval_s / 2:
            self._wake_at(self._due_s)  # this was the wake-up for a deadline that has been met, or for what went stale
        elif now < self._answered_s + self._pause_s - interval_s / 2 and self.target.is_idle():
            self._due_s = now + interval_s
            self._wake_at(self._due_s)
        else:
            self._fetch(now)

    def _fetch(self, now: float) -> None:
        interval_s = self._pace.interval_s
        self._deadline_s = now + self._pace.timeout_s
        # At a fixed rate; ticks that were missed are not made up for.
        self._due_s = max(self._due_s, now - interval_s / 2) + interval_s
        self._wake_at(min(self._due_s, self._deadline_s))
        if self._connection is None:
            self._connect()
        else:
            self._connection.send(self.target.request())

    def _wake_at(self, time_s: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(time_s, self._tick)

    def _succeed(self) -> None:
        if self._failures_in_row:
            _log.info("%s of endpoint %s can be read again", self._shared.what, self._name)
            self._failures_in_row = 0
        now = self._loop.time()
        self._deadline_s = None
        self._answered_s = now
        self._stale_s = now + self._pace.stale_after_s
        self.scrapes += 1
        self.last_error = ""
        self._tell_silent(False)
        longest_s = self._pace.idle_interval_s
        if longest_s:
            self._pause_s = (
                min(longest_s, max(self._pause_s, self._pace.interval_s) * 2) if self.target.is_idle() else 0.0
            )

    def _fail(self, reason: str, *, fetched: bool = False, heard: bool = True) -> None:
        """Count it and wait: twice as long after each failure in a row, up to a second, less a random half.

        `fetched`: it was what came that is wrong, which the target has counted. `heard`: somebody has answered something.
        """
        if not fetched:
            self._shared.errors.poll_failed()
        if self._failures_in_row == 0:
            _log.warning("%s of endpoint %s cannot be read: %s", self._shared.what, self._name, reason)
        self._deadline_s = None
        self.failures += 1
        self.last_error = reason
        if not self.scrapes and self._stale_s < math.inf:
            self._forget()  # there is nothing that could be good for a while
        self._tell_silent(not heard and self._forgotten)
        interval_s = self._pace.interval_s
        delay_s = min(max(interval_s, MAX_BACKOFF_S), interval_s * 2.0 ** min(self._failures_in_row, 30))
        self._failures_in_row += 1
        self._due_s = self._loop.time() + delay_s * self._shared.rng.uniform(0.5, 1)
        self._wake_at(min(self._due_s, self._stale_s))

    @property
    def _forgotten(self) -> bool:
        return self._stale_s == math.inf and self._pace.stale_after_s < math.inf

    def _tell_silent(self, is_silent: bool) -> None:
        if is_silent != self._silent:
            self._silent = is_silent
            self.target.silent(is_silent)

    def _forget(self) -> None:
        self._stale_s = math.inf
        self.target.forget()

    # --- connection ------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        shared = self._shared
        connection = HttpConnection(self, buffer=shared.buffer, max_body_bytes=shared.max_body_bytes)
        self._expected = connection
        task = self._loop.create_task(self._open_connection(connection))
        self._opening.add(task)
        task.add_done_callback(partial(self._opened, connection))

    async def _open_connection(self, connection: HttpConnection) -> None:
        host, port = self.address
        tls = self._shared.tls
        try:
            await self._loop.create_connection(
                lambda: connection, host, port, ssl=tls, server_hostname=host if tls else None
            )
        except OSError as error:
            if connection is self._expected:
                self._expected = None
                self._fail(f"cannot connect: {error}", heard=False)

    def _opened(self, connection: HttpConnection, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if task.cancelled():
            # uvloop, cancelled between connection_made and its return, frees the socket without a connection_lost.
            connection.abort()
            self._open.discard(connection)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("connecting to endpoint %s went wrong", self._name, exc_info=error)
        self._check_finished()

    def _disconnect(self) -> None:
        self._connection = self._expected = None
        for task in self._opening:
            task.cancel()
        for connection in tuple(self._open):
            connection.abort()

    def connected(self, connection: HttpConnection) -> None:
        self._open.add(connection)
        if connection is not self._expected:
            connection.abort()
            return
        self._expected = None
        self.connections += 1
        self._connection = connection
        connection.send(self.target.request())

    def disconnected(self, connection: HttpConnection, reason: str) -> None:
        self._open.discard(connection)
        if connection is self._connection:
            self._connection = None
            if self._deadline_s is not None and connection.busy:
                if connection.retriable:
                    self._connect()
                else:
                    self._fail(reason)
        self._check_finished()

    def answered(self, connection: HttpConnection, response: HttpResponse) -> None:
        if self._stopped or connection is not self._connection:
            return
        if not response.reusable:
            self._connection = None
        if response.status != 200:
            self._fail(f"HTTP status {response.status}")
            return
        self.body_bytes = len(response.body)
        wrong = self.target.take(response.body)
        if wrong:
            self._fail(wrong, fetched=True)
        else:
            self._succeed()
