"""Asks prediction servers for the latencies of candidates: many requests in one call, within a deadline, or not at all.

Requests that come within a moment of each other share a call. A server that fails is left alone for a while, longer each time,
so that requests do not wait for it in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from epp.api import Floats, Handle, OutsideError, SharedWork
from epp_plugins.latency_servers.wire import BadAnswer, bulk_request, predictions

_PATH: Final = "/predict/bulk/strict"
_JSON: Final = {"content-type": "application/json"}
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


class NoPrediction(Exception):
    """Nobody predicts now. The message says why; `reason` in one word, for metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Server:
    """One of the servers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_failing = False
        self.resting_until_s = float("-inf")
        self._pause_s = _FIRST_PAUSE_S

    def worked(self) -> None:
        self.is_failing = False
        self._pause_s = _FIRST_PAUSE_S

    def failed(self, now_s: float) -> None:
        self.is_failing = True
        self.resting_until_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


class _Batch:
    """Rows of several requests, for one call."""

    def __init__(self) -> None:
        self.features: list[Floats] = []
        self.rows = 0
        self.work: SharedWork[Floats]

    def add(self, features: Floats) -> int:
        """Returns where its rows begin."""
        at = self.rows
        self.features.append(features)
        self.rows += len(features)
        return at


class PredictionClient:
    """`deadline_s` bounds each call; `most_rows` those of one call (more of one request go alone)."""

    def __init__(
        self,
        handle: Handle,
        urls: Sequence[str],
        *,
        window_s: float = 0.001,
        deadline_s: float = 0.02,
        most_rows: int = 10_000,
        most_calls: int = 36,
    ) -> None:
        self._handle = handle
        self._servers = [_Server(url.rstrip("/")) for url in urls]
        self._window_s = window_s
        self._deadline_s = deadline_s
        self._most_rows = most_rows
        self._most_calls = most_calls
        self._open: _Batch | None = None
        self.calls = 0
        """Calls under way."""

    @property
    def is_available(self) -> bool:
        """Whether asking now makes sense: some server is not left alone."""
        now_s = self._handle.clock()
        return any(server.resting_until_s <= now_s for server in self._servers)

    @property
    def working(self) -> dict[str, bool]:
        """By URL: whether its last answer could be used, or it was not asked yet."""
        return {server.url: not server.is_failing for server in self._servers}

    async def predict(self, features: Floats) -> Floats:
        """TTFT and TPOT in ms for candidates by features: two rows, a column per candidate. Raises NoPrediction."""
        if not self.is_available:
            raise NoPrediction("unavailable", "no prediction server answers")
        batch = self._open
        if batch is None or batch.rows + len(features) > self._most_rows:
            if self.calls >= self._most_calls:
                raise NoPrediction("busy", f"{self.calls} calls to prediction servers are under way")
            batch = self._open = self._begin()
        at = batch.add(features)
        try:
            said = await batch.work
        except OutsideError as error:
            raise NoPrediction("unavailable", str(error)) from error
        return said[:, at : at + len(features)]

    def _begin(self) -> _Batch:
        batch = _Batch()
        try:
            batch.work = self._handle.outside.shared(self._call(batch), name="prediction of latencies")
        except OutsideError as error:
            raise NoPrediction("unavailable", str(error)) from error
        self.calls += 1
        return batch

    async def _call(self, batch: _Batch) -> Floats:
        try:
            await self._handle.sleep(self._window_s)
            return await self._ask(batch)
        finally:
            self.calls -= 1
            if self._open is batch:
                self._open = None

    async def _ask(self, batch: _Batch) -> Floats:
        if self._open is batch:
            self._open = None  # whoever comes from here on needs another call
        now_s = self._handle.clock()
        ready = [server for server in self._servers if server.resting_until_s <= now_s]
        if not ready:
            raise NoPrediction("unavailable", "no prediction server answers")
        server = self._handle.random.choice(ready)
        try:
            reply = await self._handle.outside.http(
                "POST",
                server.url + _PATH,
                body=bulk_request(batch.features),
                headers=_JSON,
                timeout_s=self._deadline_s,
            )
            if reply.status != 200:
                raise OutsideError(f"{server.url} answers with status {reply.status}")
            said = predictions(reply.body, batch.rows)
        except TimeoutError as error:
            self._failed(server, f"no answer within {self._deadline_s * 1e3:g} ms")
            raise NoPrediction("deadline", f"{server.url}: no answer in time") from error
        except (OutsideError, BadAnswer) as error:
            self._failed(server, str(error))
            raise NoPrediction("failed", str(error)) from error
        server.worked()
        return said

    def _failed(self, server: _Server, why: str) -> None:
        if not server.is_failing:
            self._handle.log.warning("plugin %s: prediction server %s: %s", self._handle.name, server.url, why)
        server.failed(self._handle.clock())
