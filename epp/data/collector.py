"""Keeps the fleet's metric columns fresh: fetches every endpoint's page again and again, each at its own pace.

One timer and one keep-alive connection per endpoint, no task while it is connected: a fetch is a write, a read and a scan.
At most one request per endpoint is under way, so a slow one delays nobody. What cannot be fetched or read leaves the
columns, and METRICS_UPDATED_S, as they are: old numbers look old.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_NUM_BLOCKS,
    KV_CACHE_USAGE,
    LORA_CAPACITY,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Endpoint,
    Fleet,
)
from epp.data.engines import Engine, Engines
from epp.data.http_connection import HttpConnection
from epp.data.http_response import HttpResponse
from epp.data.metrics_source import MetricsSource
from epp.data.page import PageReader, Reading

_log: Final = logging.getLogger(__name__)

DEFAULT_INTERVAL_S: Final = 0.05
DEFAULT_TIMEOUT_S: Final = 1.0
MAX_BACKOFF_S: Final = 1.0
READ_BYTES: Final = 256 * 1024
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024


class ScrapeStatus(msgspec.Struct, frozen=True):
    """How the fetching of one endpoint's page fares.

    `last_error` is empty while it works, `age_s` is inf before the first page, `connections` counts those ever opened.
    """

    endpoint: Endpoint
    engine: str
    scrapes: int
    failures: int
    last_error: str
    age_s: float
    connections: int
    page_bytes: int


class Collector:
    """Fetches the pages of the endpoints it is told of (it is a datastore listener) until they are gone or it is closed."""

    def __init__(
        self,
        fleet: Fleet,
        engines: Engines,
        *,
        clock: Callable[[], float],
        source: MetricsSource | None = None,
        interval_s: float = DEFAULT_INTERVAL_S,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_page_bytes: int = MAX_PAGE_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        self.fleet = fleet
        self.engines = engines
        self.clock = clock
        self.source = source or MetricsSource()
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self.max_page_bytes = max_page_bytes
        self.rng = rng or random.Random()
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.tls: ssl.SSLContext | None = self.source.tls_context()
        self._scrapers: dict[Endpoint, _Scraper] = {}
        self._stopping: set[_Scraper] = set()
        self._closed = False

    def endpoint_added(self, endpoint: Endpoint) -> None:
        """Begin to fetch its page. Called on the event loop."""
        if not self._closed and endpoint not in self._scrapers:
            self._scrapers[endpoint] = _Scraper(endpoint, self)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Stop at once: from here on nothing is written to its row."""
        scraper = self._scrapers.pop(endpoint, None)
        if scraper is not None:
            scraper.stop()
            if not scraper.finished:
                self._stopping.add(scraper)

    def scraper_finished(self, scraper: _Scraper) -> None:
        """A stopped scraper has let go of its last socket."""
        self._stopping.discard(scraper)

    async def close(self) -> None:
        """Stop everything. Returns once all sockets are closed."""
        self._closed = True
        for endpoint in tuple(self._scrapers):
            self.endpoint_removed(endpoint)
        await asyncio.gather(*(scraper.wait_finished() for scraper in tuple(self._stopping)))

    def age_s(self, endpoint: Endpoint) -> float:
        """Seconds since the endpoint's page was last read; inf when it never was, or the endpoint is gone."""
        if not endpoint.alive:
            return math.inf
        return self.clock() - float(self.fleet.columns[METRICS_UPDATED_S][endpoint.row])

    def status(self, endpoint: Endpoint) -> ScrapeStatus | None:
        """None for an endpoint whose page is not fetched."""
        scraper = self._scrapers.get(endpoint)
        return None if scraper is None else scraper.status()

    def statuses(self) -> list[ScrapeStatus]:
        """One for each endpoint, in the order in which they came."""
        return [scraper.status() for scraper in self._scrapers.values()]


class _Scraper:
    """Fetches one endpoint's page. Its timer ticks for as long as it lives; `_deadline_s` is set while a fetch is under way."""

    def __init__(self, endpoint: Endpoint, collector: Collector) -> None:
        self._endpoint = endpoint
        self._collector = collector
        self._loop = asyncio.get_running_loop()
        self._address = collector.source.address(endpoint)
        self._labels = endpoint.labels
        self._use(self._labelled() or collector.engines.default)
        self._connection: HttpConnection | None = None
        self._expected: HttpConnection | None = None  # the one that is being opened
        self._open: set[HttpConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._deadline_s: float | None = None
        self._failures_in_row = 0
        self._scrapes = 0
        self._failures = 0
        self._connections = 0
        self._page_bytes = 0
        self._last_error = ""
        # Endpoints that come together (a restart of the service) shall not be fetched in step.
        longest_s = min(collector.interval_s, MAX_BACKOFF_S)
        self._due_s = self._loop.time() + collector.rng.uniform(0, longest_s)
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def status(self) -> ScrapeStatus:
        return ScrapeStatus(
            endpoint=self._endpoint,
            engine=self._reader.engine.name,
            scrapes=self._scrapes,
            failures=self._failures,
            last_error=self._last_error,
            age_s=self._collector.age_s(self._endpoint),
            connections=self._connections,
            page_bytes=self._page_bytes,
        )

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
        self._collector.scraper_finished(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- pace ------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now, interval_s = self._loop.time(), self._collector.interval_s
        if self._deadline_s is not None:
            if now < self._deadline_s:
                self._wake_at(min(now + interval_s, self._deadline_s))
            else:
                self._disconnect()
                self._fail(f"no answer within {self._collector.timeout_s:g} s")
        elif now < self._due_s - interval_s / 2:
            self._wake_at(self._due_s)  # this was the wake-up for a deadline that has been met
        else:
            self._fetch(now)

    def _fetch(self, now: float) -> None:
        self._deadline_s = now + self._collector.timeout_s
        # At a fixed rate; ticks that were missed are not made up for.
        self._due_s = max(self._due_s, now - self._collector.interval_s / 2) + self._collector.interval_s
        self._wake_at(min(self._due_s, self._deadline_s))
        if self._endpoint.labels is not self._labels:
            self._labels = self._endpoint.labels
            self._use(self._labelled() or self._collector.engines.default)
        if self._connection is not None:
            self._connection.send(self._request)
        else:
            self._connect()

    def _wake_at(self, time_s: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(time_s, self._tick)

    def _fail(self, reason: str) -> None:
        """Count it and wait: twice as long after each failure in a row, up to a second, less a random half."""
        if self._failures_in_row == 0:
            _log.warning("metrics of endpoint %s cannot be read: %s", self._endpoint.name, reason)
        self._deadline_s = None
        self._failures += 1
        self._last_error = reason
        interval_s = self._collector.interval_s
        longest_s = max(interval_s, MAX_BACKOFF_S)
        delay_s = min(longest_s, interval_s * 2.0 ** min(self._failures_in_row, 30))
        self._failures_in_row += 1
        self._due_s = self._loop.time() + delay_s * self._collector.rng.uniform(0.5, 1)
        self._wake_at(self._due_s)

    # --- connection ------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        connection = HttpConnection(self, buffer=self._collector.buffer, max_body_bytes=self._collector.max_page_bytes)
        self._expected = connection
        task = self._loop.create_task(self._open_connection(connection))
        self._opening.add(task)
        task.add_done_callback(partial(self._opened, connection))

    async def _open_connection(self, connection: HttpConnection) -> None:
        host, port = self._address
        tls = self._collector.tls
        try:
            await self._loop.create_connection(
                lambda: connection, host, port, ssl=tls, server_hostname=host if tls else None
            )
        except OSError as error:
            if connection is self._expected:
                self._expected = None
                self._fail(f"cannot connect: {error}")

    def _opened(self, connection: HttpConnection, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if task.cancelled():
            # uvloop, cancelled between connection_made and its return, frees the socket without a connection_lost.
            connection.abort()
            self._open.discard(connection)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("connecting to endpoint %s went wrong", self._endpoint.name, exc_info=error)
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
        self._connections += 1
        self._connection = connection
        connection.send(self._request)

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
        self._page_bytes = len(response.body)
        reading = self._read(response.body)
        if not reading.shows_load:
            self._fail(f"the page has no metrics of engine {self._reader.engine.name!r}")
            return
        self._write(reading)
        self._succeed()

    # --- pages -----------------------------------------------------------------------------------------------------------

    def _labelled(self) -> Engine | None:
        return self._collector.engines.of_labels(self._endpoint.labels)

    def _use(self, engine: Engine) -> None:
        self._reader = PageReader(engine)
        self._request = self._collector.source.request(self._endpoint, engine.path)

    def _read(self, page: bytes) -> Reading:
        """By the engine in use; when that fails and no label names one, by the engine that the page shows."""
        reading = self._reader.read(page)
        if reading.shows_load or self._labelled() is not None:
            return reading
        engine = self._collector.engines.detect(page)
        if engine is None or engine is self._reader.engine:
            return reading
        self._reader = PageReader(engine)  # the page is where it was found, wherever the engine's usually are
        return self._reader.read(page)

    def _write(self, reading: Reading) -> None:
        endpoint = self._endpoint
        columns, row = self._collector.fleet.columns, endpoint.row
        if reading.waiting_requests is not None:
            columns[WAITING_REQUESTS][row] = reading.waiting_requests
        if reading.running_requests is not None:
            columns[RUNNING_REQUESTS][row] = reading.running_requests
        if reading.kv_cache_usage is not None:
            columns[KV_CACHE_USAGE][row] = reading.kv_cache_usage
        if reading.cache is not None:
            if reading.cache.block_size_tokens is not None:
                columns[CACHE_BLOCK_SIZE][row] = reading.cache.block_size_tokens
            if reading.cache.num_blocks is not None:
                columns[CACHE_NUM_BLOCKS][row] = reading.cache.num_blocks
        if reading.lora is not None:
            columns[LORA_CAPACITY][row] = reading.lora.capacity
            endpoint.lora_active = reading.lora.active
            endpoint.lora_waiting = reading.lora.waiting
        endpoint.attributes.update(reading.custom)
        columns[METRICS_UPDATED_S][row] = self._collector.clock()

    def _succeed(self) -> None:
        if self._failures_in_row:
            _log.info("metrics of endpoint %s can be read again", self._endpoint.name)
            self._failures_in_row = 0
        self._deadline_s = None
        self._scrapes += 1
        self._last_error = ""
