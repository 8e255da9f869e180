"""One model server without its sockets: engine, faults, metrics page, and the log of what it received."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from aiohttp import web
from xxhash import xxh64_hexdigest

from epp.sim.config import SimConfig
from epp.sim.engine import Engine
from epp.sim.faults import Faults
from epp.sim.page import MetricsPage
from epp.sim.runner import EngineRunner

BODY_KEPT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it arrived. `body` is None when it was longer than 64 KiB; its hash is there in any case."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    size_bytes: int
    xxh64: str
    """16 hex digits, seed 0."""
    body: bytes | None
    received_s: float
    """Unix time."""

    def header(self, name: str) -> str | None:
        """Value of the first header of this name, in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


class Core:
    """Lives on the running loop. The engine is made anew by `start` and when `engine_dead` is cleared."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.faults = Faults()
        self.requests: deque[ReceivedRequest] = deque(maxlen=config.request_log)
        self.received = 0
        self.scrapes = 0
        self.probes = 0
        self.load = 0
        """Requests being answered, as /load tells."""
        self.started_s = 0.0
        self._runner: EngineRunner | None = None
        self._page: MetricsPage | None = None

    @property
    def runner(self) -> EngineRunner:
        if self._runner is None:
            raise RuntimeError(f"{self.config.name}: not started; call start() first")
        return self._runner

    def start(self) -> None:
        """Start an engine with an empty cache and counters at zero."""
        self.started_s = time.time()
        runner = EngineRunner(Engine(self.config))
        self._page = MetricsPage(
            self.config,
            runner.engine.stats,
            created_s=self.started_s,
            epoch_offset_s=self.started_s - runner.now_s(),
        )
        self._runner = runner
        runner.freeze(self.faults.frozen)
        if not self.faults.engine_dead:
            runner.start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.stop()

    def apply_faults(self, faults: Faults) -> None:
        """Set the server-wide faults; an engine that dies, freezes or comes back does so now."""
        before, self.faults = self.faults, faults
        if self._runner is None:
            return
        if faults.engine_dead and not before.engine_dead:
            self._runner.kill()
        elif before.engine_dead and not faults.engine_dead:
            self.start()
        self._runner.freeze(faults.frozen)

    def metrics_page(self) -> bytes:
        if self._page is None:
            raise RuntimeError(f"{self.config.name}: not started; call start() first")
        return self._page.render()

    def record(self, request: web.BaseRequest, body: bytes) -> None:
        self.received += 1
        self.requests.append(
            ReceivedRequest(
                method=request.method,
                path=request.path_qs,
                headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers),
                size_bytes=len(body),
                xxh64=xxh64_hexdigest(body),
                body=body if len(body) <= BODY_KEPT_BYTES else None,
                received_s=time.time(),
            )
        )
