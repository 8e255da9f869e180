"""When the parts of one decision began and ended. Only requests whose trace is recorded have one."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

from epp.scheduling.trace import Trace


class Call(NamedTuple):
    """One call of a plugin. `point` is the Go EPP's extension point label; times are of perf_counter."""

    point: str
    type: str
    began_s: float
    ended_s: float


class Stopwatch:
    """`runs` has the stamps of each profile's run, aligned with `trace`: the beginning, the end of its filters, the end of each
    scorer, the end of the pick. Where the filters left nobody there are only the first two.
    """

    __slots__ = ("calls", "runs", "trace")

    def __init__(self) -> None:
        self.trace: Trace = []
        self.runs: list[list[float]] = []
        self.calls: list[Call] = []

    def begin_run(self) -> list[float]:
        """The stamps of a run that begins now."""
        stamps = [perf_counter()]
        self.runs.append(stamps)
        return stamps

    def called(self, point: str, type: str, began_s: float) -> None:
        """A call that has ended just now."""
        self.calls.append(Call(point, type, began_s, perf_counter()))
