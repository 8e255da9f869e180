"""The metrics page of one endpoint, read into the fleet's columns and the endpoint's attributes by the rules of its engine.

A number that cannot be used any more becomes NaN, which means unknown: it is not a load of 0, and nothing is better than it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_NUM_BLOCKS,
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    LORA_CAPACITY,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Endpoint,
    Fleet,
)
from epp.data.engines import Engine, Engines
from epp.data.metrics_source import MetricsSource
from epp.data.page import PageReader, Reading
from epp.data.source_errors import SourceErrors

_EXTRACTOR: Final = "core-metrics-extractor"
_LOAD: Final = (WAITING_REQUESTS, RUNNING_REQUESTS, KV_CACHE_USAGE)
_NO_NAMES: Final[frozenset[str]] = frozenset()


class LoadTarget:
    """Reads the pages of `endpoint`. A value that its pages no longer show is forgotten after `stale_after_s`."""

    def __init__(
        self,
        endpoint: Endpoint,
        fleet: Fleet,
        engines: Engines,
        source: MetricsSource,
        *,
        clock: Callable[[], float],
        token: Callable[[], str],
        errors: SourceErrors,
        stale_after_s: float,
    ) -> None:
        self._endpoint = endpoint
        self._fleet = fleet
        self._engines = engines
        self._source = source
        self._clock = clock
        self._errors = errors
        self._stale_after_s = stale_after_s
        self._labels = endpoint.labels
        self._read_token = token
        self._token = token()
        self._written: Reading | None = None  # what the columns hold; None: they have to be written
        self._unchanged = False
        self._taken_s = 0.0
        self._missing: dict[str, float] = {}  # columns and attributes that are no longer shown, and when they last were
        self._use(self._labelled() or engines.default)

    @property
    def name(self) -> str:
        return self._reader.engine.name

    def request(self) -> bytes:
        if self._endpoint.labels is not self._labels:
            self._labels = self._endpoint.labels
            self._use(self._labelled() or self._engines.default)
        elif (token := self._read_token()) is not self._token:
            self._token = token
            self._request = self._source.request(self._endpoint, self._path, token=token)
        return self._request

    def take(self, body: bytes) -> str:
        reading = self._read(body)
        if not reading.shows_load:
            self._errors.extractor_failed(_EXTRACTOR)
            return f"the page has no metrics of engine {self.name!r}"
        now = self._clock()
        self._unchanged = reading is self._written
        if not self._unchanged or self._missing:
            self._write(reading, now)
        self._taken_s = now
        self._fleet.columns[METRICS_UPDATED_S][self._endpoint.row] = now
        return ""

    def forget(self) -> None:
        """Unknown load, no adapters, no attributes. The cache's shape stays: it is no state."""
        columns, endpoint = self._fleet.columns, self._endpoint
        for column in _LOAD:
            columns[column][endpoint.row] = math.nan
        columns[LORA_CAPACITY][endpoint.row] = 0.0
        columns[METRICS_UPDATED_S][endpoint.row] = -math.inf
        endpoint.lora_active = endpoint.lora_waiting = _NO_NAMES
        self._start_anew()

    def silent(self, is_silent: bool) -> None:
        """Where metrics are read at the port that serves requests, who does not answer there serves none."""
        endpoint = self._endpoint
        if self._source.address(endpoint) == (endpoint.address, endpoint.port):
            self._fleet.set_silent(endpoint, is_silent)

    def is_idle(self) -> bool:
        reading = self._written
        return (
            self._unchanged
            and reading is not None
            and not reading.waiting_requests
            and not reading.running_requests
            and not self._fleet.columns[IN_FLIGHT_REQUESTS].item(self._endpoint.row)
        )

    # --- reading ---------------------------------------------------------------------------------------------------------

    def _labelled(self) -> Engine | None:
        return self._engines.of_labels(self._endpoint.labels)

    def _use(self, engine: Engine) -> None:
        self._start_anew()
        self._reader = PageReader(engine)
        self._path = engine.path
        self._request = self._source.request(self._endpoint, engine.path, token=self._token)

    def _read(self, page: bytes) -> Reading:
        """By the engine in use; when that fails and no label names one, by the engine that the page shows."""
        reading = self._reader.read(page)
        if reading.shows_load or self._labelled() is not None:
            return reading
        engine = self._engines.detect(page)
        if engine is None or engine is self._reader.engine:
            return reading
        self._start_anew()
        self._reader = PageReader(engine)  # the page is where it was found, wherever the engine's usually are
        return self._reader.read(page)

    def _shows(self, column: str) -> bool:
        """The page has the metric of `column`, whether or not its value can be used."""
        engine = self._reader.engine
        if column == KV_CACHE_USAGE:
            return self._reader.shows(engine.kv_usage) or self._reader.shows(engine.kv_used_blocks)
        return self._reader.shows(engine.waiting if column == WAITING_REQUESTS else engine.running)

    def _start_anew(self) -> None:
        """Nothing that earlier pages have shown counts any more."""
        for key in (*_attributes(self._written), *self._missing):
            self._endpoint.attributes.pop(key, None)
        self._written = None
        self._missing.clear()

    # --- writing ---------------------------------------------------------------------------------------------------------

    def _write(self, reading: Reading, now: float) -> None:
        endpoint, before = self._endpoint, self._written
        columns, row = self._fleet.columns, endpoint.row
        shown, shown_before = _load(reading), _load(before)
        for column, value in shown.items():
            if value is not None:
                columns[column][row] = value
                self._missing.pop(column, None)
            elif shown_before[column] is not None:
                self._missing[column] = self._taken_s
            elif column not in self._missing and self._shows(column):
                columns[column][row] = math.nan  # there is such a number, and nobody knows it
            elif before is None:
                columns[column][row] = 0.0  # an engine that has no such metric
        if reading.cache is not None:
            if reading.cache.block_size_tokens is not None:
                columns[CACHE_BLOCK_SIZE][row] = reading.cache.block_size_tokens
            if reading.cache.num_blocks is not None:
                columns[CACHE_NUM_BLOCKS][row] = reading.cache.num_blocks
        if reading.lora is not None:
            columns[LORA_CAPACITY][row] = reading.lora.capacity
            endpoint.lora_active = reading.lora.active
            endpoint.lora_waiting = reading.lora.waiting
        attributes = dict(reading.custom)
        self._missing |= dict.fromkeys(_attributes(before) - attributes.keys(), self._taken_s)
        for key, number in attributes.items():
            endpoint.attributes[key] = number
            self._missing.pop(key, None)
        self._written = reading
        for what in [what for what, last_s in self._missing.items() if now - last_s >= self._stale_after_s]:
            del self._missing[what]
            if what in shown:
                columns[what][row] = math.nan
            else:
                endpoint.attributes.pop(what, None)


def _load(reading: Reading | None) -> dict[str, float | None]:
    """By column. None: the page does not say."""
    if reading is None:
        return dict.fromkeys(_LOAD)
    return {
        WAITING_REQUESTS: reading.waiting_requests,
        RUNNING_REQUESTS: reading.running_requests,
        KV_CACHE_USAGE: reading.kv_cache_usage,
    }


def _attributes(reading: Reading | None) -> set[str]:
    return set() if reading is None else {key for key, _ in reading.custom}
