"""Simulated model servers on a virtual clock: `epp sim`'s engine, whose steps are events instead of waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Final

from epp.sim import SimConfig, StepCost
from epp.sim.engine import Engine
from epp.sim.sequence import Sequence

BLOCK_TOKENS: Final = 64

# A large GPU: 20,000 prompt tokens a second at best, room for 1.2 million tokens.
SERVER: Final = SimConfig(
    cost=StepCost(base_ms=6.0, prefill_ms_per_1k_tokens=50.0, decode_ms_per_sequence=0.15),
    max_num_seqs=48,
    max_num_batched_tokens=2048,
    blocks=18_751,
    block_size=BLOCK_TOKENS,
)


class Timeline:
    """Events in the order of their time; `now_s` is that of the one that happens. Calling it tells `now_s`, as a clock does."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def __call__(self) -> float:
        return self.now_s

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._number), event))

    def step(self) -> bool:
        """Let the next event happen. False when there is none left."""
        if not self._events:
            return False
        self.now_s, _, event = heapq.heappop(self._events)
        event()
        return True


class Server:
    """One engine. `on_first` and `on_end` are called at the end of the step that gave the first and the last token."""

    def __init__(self, timeline: Timeline, *, speed: float = 1.0, config: SimConfig = SERVER) -> None:
        self._timeline = timeline
        self.config = replace(config, cost=replace(config.cost, speed=speed))
        self.is_busy = False
        self.step_ends_s = 0.0
        self._told: dict[int, tuple[Sequence, Callable[[], None], Callable[[], None]]] = {}
        self.engine = Engine(self.config)

    def submit(
        self, prompt: bytes, output_tokens: int, *, on_first: Callable[[], None], on_end: Callable[[], None]
    ) -> Sequence:
        sequence = Sequence(
            prompt, block_size=self.config.block_size, max_tokens=output_tokens, arrival_s=self._timeline.now_s
        )
        self._told[id(sequence)] = (sequence, on_first, on_end)
        self.engine.submit(sequence)
        if not self.is_busy:
            self._start()
        return sequence

    def _start(self) -> None:
        now_s = self._timeline.now_s
        self.is_busy = True
        self.step_ends_s = now_s + self.engine.start_step(now_s)
        self._timeline.at(self.step_ends_s, self._finish)

    def _finish(self) -> None:
        now_s = self._timeline.now_s
        progressed = self.engine.finish_step(now_s)
        if self.engine.has_work:
            self._start()
        else:
            self.is_busy = False
        for sequence in progressed:
            if sequence.generated == 1:
                self._told[id(sequence)][1]()
            if sequence.is_done:
                self._told.pop(id(sequence))[2]()
