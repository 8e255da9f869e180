"""Lets an engine's steps take their time on the event loop: one task an engine, one wakeup a step."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from epp.sim.engine import Engine
from epp.sim.sequence import Sequence

GRANULARITY_S = 0.001
"""Sleeps shorter than this are not worth asking the event loop for; steps are run together until they add up to it."""

MOST_LAG_S = 0.02
"""A loop that is late by less catches up; one that is later lets the lost time go, since a real engine would not hurry."""


class EngineRunner:
    """Owns the engine's task. Nothing here blocks; `submit` and `abort` are plain calls on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.Event()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._task: asyncio.Task[None] | None = None

    def now_s(self) -> float:
        return self._loop.time()

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Cancel the task; what was in the engine fails."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.kill()

    def kill(self) -> None:
        """The engine dies now: its task ends, every request in it fails."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        notify(self.engine.fail_all())

    def freeze(self, frozen: bool) -> None:
        """Hold the engine in the step it is in. Requests pile up and the published gauges stay."""
        if frozen:
            self._thawed.clear()
        else:
            self._thawed.set()

    def submit(self, sequence: Sequence) -> None:
        self.engine.submit(sequence)
        self._work.set()

    def abort(self, sequence: Sequence) -> None:
        self.engine.abort(sequence, self.now_s())

    async def _run(self) -> None:
        engine = self.engine
        time_s = self._loop.time
        clock_s = yielded_s = time_s()
        while True:
            if not engine.has_work:
                self._work.clear()
                await self._work.wait()
                clock_s = max(clock_s, time_s())
            now_s = time_s()
            clock_s += engine.start_step(max(clock_s, now_s))
            ahead_s = clock_s - now_s
            # Even an engine that is behind must let the loop run, or nobody could send it anything.
            if ahead_s >= GRANULARITY_S or now_s - yielded_s >= GRANULARITY_S:
                await asyncio.sleep(max(ahead_s, 0.0))
                yielded_s = time_s()
            if not self._thawed.is_set():
                await self._thawed.wait()
            clock_s = max(clock_s, time_s() - MOST_LAG_S)
            notify(engine.finish_step(max(clock_s, time_s())))


def notify(sequences: list[Sequence]) -> None:
    for sequence in sequences:
        if sequence.on_progress is not None and sequence.is_news:
            sequence.on_progress()
