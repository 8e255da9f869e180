"""A discovery that runs beside an API server, and what a test asks of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from epp.api import ObjectKind, ObjectListener
from epp.data.datastore import Datastore
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.credentials import Source
from epp.discovery.kubernetes.discovery import KubernetesDiscovery, Wanted, WatchStatus
from epp.discovery.kubernetes.watcher import Timing

Listeners = Mapping[ObjectKind, Sequence[ObjectListener]]

QUICK = Timing(
    first_retry_s=0.001,
    last_retry_s=0.02,
    absent_s=0.02,
    denied_s=0.02,
    silence_s=60.0,
    brief_s=0.0,
    page_size=2,
)
BY_POOL = Wanted("default", pool_name="pool")
DEADLINE_S = 90.0  # of a loaded machine


class Running:
    """`health` is what it told of being in step, `synced` whether it has told anything."""

    def __init__(self, api: Api, wanted: Wanted, timing: Timing, listeners: Listeners | None = None) -> None:
        self.datastore = Datastore()
        self.health: list[bool] = []
        self.synced = asyncio.Event()
        self.on_health: Callable[[], None] = lambda: None
        self.discovery = KubernetesDiscovery(
            api,
            wanted,
            self.datastore,
            synced=self._note,
            clock=time.monotonic,
            rng=random.Random(0),
            timing=timing,
            listeners=listeners,
        )

    def _note(self, synced: bool) -> None:
        self.health.append(synced)
        self.synced.set()
        self.on_health()

    @property
    def addresses(self) -> list[str]:
        return sorted(e.host_port for e in self.datastore.endpoints)

    @property
    def ready(self) -> bool:
        return bool(self.health) and self.health[-1]

    def status(self, kind: str) -> WatchStatus:
        return next(status for status in self.discovery.statuses() if status.kind == kind)

    async def until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > give_up_at:
                raise AssertionError(f"not within {DEADLINE_S:g} s: {self.addresses} {self.discovery.notes()}")
            await asyncio.sleep(0.005)

    async def endpoints(self, *addresses: str) -> None:
        """Wait for exactly these."""
        await self.until(lambda: self.addresses == sorted(addresses))


@asynccontextmanager
async def running(
    kubeconfig: Path, wanted: Wanted = BY_POOL, timing: Timing = QUICK, listeners: Listeners | None = None
) -> AsyncIterator[Running]:
    api = await Api.connect(Source(str(kubeconfig), environ={}))
    run = Running(api, wanted, timing, listeners)
    task = asyncio.create_task(run.discovery.run())
    try:
        yield run
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
