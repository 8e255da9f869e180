"""Fetches from every endpoint of the fleet: one scraper each, for as long as the endpoint is there.

A slow endpoint delays no other. What cannot be fetched or read leaves what is known, and METRICS_UPDATED_S, as they are, until
it is too old to be used (see `Pace`).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from epp.api import METRICS_UPDATED_S, Endpoint, Fleet
from epp.data.bearer_token import BearerToken
from epp.data.engines import Engines
from epp.data.extractor_target import ExtractorTarget, PageExtractor
from epp.data.load_target import LoadTarget
from epp.data.metrics_source import MetricsSource
from epp.data.scraper import Pace, Scraper, Shared, Target
from epp.data.shared_target import SharedTarget
from epp.data.source_errors import SourceErrors

DEFAULT_INTERVAL_S: Final = 0.05
DEFAULT_TIMEOUT_S: Final = 1.0
READ_BYTES: Final = 256 * 1024
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
LEAST_READINGS: Final = 3  # so many of them may fail before anything is too old


class ScrapeStatus(msgspec.Struct, frozen=True):
    """How the fetching from one endpoint fares.

    `engine` is the engine whose metrics are read, or the extractors. `last_error` is empty while it works, `age_s` is inf
    before the first page and when the last one is too old, `connections` counts those ever opened.
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
    """Fetches from the endpoints it is told of (it is a datastore listener) until they are gone or it is closed.

    With `engines` it reads metrics pages into the fleet's columns; what `extractors` make of what is fetched is up to them.
    Metrics that are older than `stale_after_s` become unknown (None: they are used whatever their age), though never before
    three readings could have been made. An endpoint with nothing in flight, whose page shows no requests and has not changed,
    is read ever more seldom, up to every `idle_interval_s` (0: as often as the others).
    """

    def __init__(
        self,
        fleet: Fleet,
        engines: Engines | None,
        *,
        clock: Callable[[], float],
        source: MetricsSource | None = None,
        interval_s: float = DEFAULT_INTERVAL_S,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        idle_interval_s: float = 0.0,
        stale_after_s: float | None = None,
        extractors: Sequence[PageExtractor] = (),
        max_page_bytes: int = MAX_PAGE_BYTES,
        what: str = "metrics",
        rng: random.Random | None = None,
    ) -> None:
        self._fleet = fleet
        self._engines = engines
        self._clock = clock
        self._source = source or MetricsSource()
        self._extractors = tuple(extractors)
        path = self._source.bearer_token_path
        self._token: Callable[[], str] = BearerToken(path, clock) if path else str
        if idle_interval_s <= interval_s:
            idle_interval_s = 0.0
        self.longest_interval_s = max(interval_s, idle_interval_s)
        self.least_age_s = LEAST_READINGS * self.longest_interval_s  # what is younger is not old
        stale_s = math.inf if stale_after_s is None else max(stale_after_s, self.least_age_s)
        self.errors = SourceErrors()
        self._shared = Shared(
            what=what,
            pace=Pace(interval_s, timeout_s, idle_interval_s=idle_interval_s, stale_after_s=stale_s),
            tls=self._source.tls_context(),
            buffer=memoryview(bytearray(READ_BYTES)),
            max_body_bytes=max_page_bytes,
            rng=rng or random.Random(),
            errors=self.errors,
            finished=self._scraper_finished,
        )
        self._scrapers: dict[Endpoint, Scraper] = {}
        self._stopping: set[Scraper] = set()
        self._closed = False

    def endpoint_added(self, endpoint: Endpoint) -> None:
        """Begin to fetch from it. Called on the event loop."""
        if not self._closed and endpoint not in self._scrapers:
            address = self._source.address(endpoint)
            self._scrapers[endpoint] = Scraper(endpoint.name, address, self._target(endpoint), self._shared)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Stop at once: from here on nothing is written to its row."""
        scraper = self._scrapers.pop(endpoint, None)
        if scraper is not None:
            scraper.stop()
            if not scraper.finished:
                self._stopping.add(scraper)

    def endpoint_relabelled(self, endpoint: Endpoint) -> None:
        """Labels may say where to fetch from. Another address begins anew, as if the endpoint had just come."""
        scraper = self._scrapers.get(endpoint)
        if scraper is not None and scraper.address != self._source.address(endpoint):
            self.endpoint_removed(endpoint)
            self.endpoint_added(endpoint)

    async def close(self) -> None:
        """Stop everything. Returns once all sockets are closed."""
        self._closed = True
        for endpoint in tuple(self._scrapers):
            self.endpoint_removed(endpoint)
        await asyncio.gather(*(scraper.wait_finished() for scraper in tuple(self._stopping)))

    def age_s(self, endpoint: Endpoint) -> float:
        """Seconds since the endpoint's page was last read; inf when it never was, is too old, or the endpoint is gone."""
        if not endpoint.alive:
            return math.inf
        return self._clock() - float(self._fleet.columns[METRICS_UPDATED_S][endpoint.row])

    def status(self, endpoint: Endpoint) -> ScrapeStatus | None:
        """None for an endpoint that nothing is fetched from."""
        scraper = self._scrapers.get(endpoint)
        return None if scraper is None else self._status(endpoint, scraper)

    def statuses(self) -> list[ScrapeStatus]:
        """One for each endpoint, in the order in which they came."""
        return [self._status(endpoint, scraper) for endpoint, scraper in self._scrapers.items()]

    def _status(self, endpoint: Endpoint, scraper: Scraper) -> ScrapeStatus:
        return ScrapeStatus(
            endpoint=endpoint,
            engine=scraper.target.name,
            scrapes=scraper.scrapes,
            failures=scraper.failures,
            last_error=scraper.last_error,
            age_s=self.age_s(endpoint),
            connections=scraper.connections,
            page_bytes=scraper.body_bytes,
        )

    def _target(self, endpoint: Endpoint) -> Target:
        source, token = self._source, self._token
        if self._engines is None:
            return ExtractorTarget(endpoint, self._extractors, partial(_request, source, endpoint, token), self.errors)
        load = LoadTarget(
            endpoint,
            self._fleet,
            self._engines,
            source,
            clock=self._clock,
            token=token,
            errors=self.errors,
            stale_after_s=self._shared.pace.stale_after_s,
        )
        if not self._extractors:
            return load
        others = ExtractorTarget(endpoint, self._extractors, load.request, self.errors)
        return SharedTarget(load, others, clock=self._clock, stale_after_s=self._shared.pace.stale_after_s)

    def _scraper_finished(self, scraper: Scraper) -> None:
        """A stopped scraper has let go of its last socket."""
        self._stopping.discard(scraper)


def _request(source: MetricsSource, endpoint: Endpoint, token: Callable[[], str]) -> bytes:
    return source.request(endpoint, source.path or "/", token=token())
