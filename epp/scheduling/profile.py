"""One scheduling profile: filters narrow the candidates, scorers rate what is left, a picker chooses.

The total of a candidate is the sum over the scorers of weight times score, each score clipped to [0, 1], as in the Go EPP.
A scorer that raises, or returns something that is not one finite number per candidate, counts as zero for everybody; NaN for
a candidate whose load is unknown counts as zero for that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, TypeAlias

import numpy as np

from epp.api import (
    KV_CACHE_USAGE,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Candidates,
    Code,
    Endpoint,
    Filter,
    Floats,
    Picker,
    ProfileResult,
    Request,
    Scorer,
    headers,
)
from epp.scheduling.observer import Observer
from epp.scheduling.stopwatch import Stopwatch
from epp.scheduling.trace import Named, Outline, ProfileRun, Trace, rule_of
from epp.scheduling.unavailable import Unavailable

_LOADS: Final = (WAITING_REQUESTS, RUNNING_REQUESTS, KV_CACHE_USAGE)

_Steps: TypeAlias = list[tuple[str, Candidates]]


class NoEndpointLeft(Unavailable):
    """Every candidate was filtered out. `removed` names who removed how many, in order."""

    def __init__(self, profile: str, total: int, removed: Sequence[tuple[str, int]]) -> None:
        super().__init__(
            Code.RESOURCE_EXHAUSTED,
            "failed to find target endpoint: no endpoint can serve this request",
            total=total,
            removed=removed,
            headers={headers.DROPPED_REASON: "rejected-saturated"},
        )
        self.profile = profile

    @property
    def why_not(self) -> str:
        return f"profile {self.profile}: {super().why_not}"


class _ScorerStep:
    """A scorer with its weight, and the last scores that it has shown to be constant: by a vector that cannot be written to."""

    __slots__ = ("plugin", "scores", "timer", "weight", "weighted")

    def __init__(self, plugin: Scorer, weight: float, timer: Callable[[float], None]) -> None:
        self.plugin = plugin
        # An array: a Python number would be converted at every multiplication.
        self.weight = np.array(weight)
        self.timer = timer
        self.scores: Floats | None = None
        self.weighted: Floats


class Profile:
    """A named chain of filters, weighted scorers and one picker, in configuration order."""

    __slots__ = (
        "_filters",
        "_observer",
        "_outline",
        "_picker_timer",
        "_scorer_names",
        "_scorers",
        "filters",
        "name",
        "picker",
        "scorers",
    )

    def __init__(
        self,
        name: str,
        *,
        filters: Sequence[Filter] = (),
        scorers: Sequence[tuple[Scorer, float]] = (),
        picker: Picker,
        observer: Observer,
    ) -> None:
        self.name = name
        self.filters = tuple(filters)
        self.scorers = tuple(scorers)
        self.picker = picker
        self._observer = observer
        self._outline = Outline(
            name,
            tuple(map(rule_of, filters)),
            tuple((Named(s.name, s.type), float(weight)) for s, weight in scorers),
            Named(picker.name, picker.type),
        )
        self._filters = tuple((f, observer.timer("Filter", f)) for f in filters)
        self._scorers = tuple(_ScorerStep(s, float(weight), observer.timer("Scorer", s)) for s, weight in scorers)
        self._scorer_names = tuple(s.name for s, _ in scorers)
        self._picker_timer = observer.timer("Picker", picker)

    def run(
        self,
        request: Request,
        candidates: Candidates,
        *,
        timed: bool = False,
        trace: Trace | None = None,
        watch: Stopwatch | None = None,
    ) -> ProfileResult:
        """Raises NoEndpointLeft when the filters leave nothing.

        `timed`: tell the observer what each plugin costs. `trace` gets what the run came to; the vectors that scorers
        returned are then kept. `watch` gets when each part ended.
        """
        steps: _Steps = []
        stamps = None if watch is None else watch.begin_run()
        left = self._filter(request, candidates, steps, timed=timed) if self._filters else candidates
        if stamps is not None:
            stamps.append(perf_counter())
        if not len(left.rows):
            if trace is not None:
                trace.append(ProfileRun(self._outline, candidates, left, tuple(steps)))
            raise NoEndpointLeft(self.name, len(candidates), _counts(candidates, steps))
        scores: list[Floats | None] = []
        totals = self._score(request, left, scores, timed=timed, stamps=stamps)
        before = perf_counter() if timed else 0.0
        picked = self._pick(request, left, totals)
        if timed:
            self._picker_timer(perf_counter() - before)
        if stamps is not None:
            stamps.append(perf_counter())
        if trace is not None:
            trace.append(ProfileRun(self._outline, candidates, left, tuple(steps), tuple(scores), totals, picked))
        return ProfileResult(picked, left, totals, self._scorer_names, scores)

    def _filter(self, request: Request, candidates: Candidates, steps: _Steps, *, timed: bool) -> Candidates:
        left = candidates
        for plugin, timer in self._filters:
            if not len(left):
                break
            before = perf_counter() if timed else 0.0
            try:
                kept = left.keep(plugin.keep(request, left))
            except Exception as error:
                self._observer.plugin_failed("Filter", plugin, error)
                kept = left
            if timed:
                timer(perf_counter() - before)
            if len(kept) != len(left):
                steps.append((plugin.name, kept))
                left = kept
        return left

    def _score(
        self,
        request: Request,
        candidates: Candidates,
        kept: list[Floats | None],
        *,
        timed: bool,
        stamps: list[float] | None,
    ) -> Floats:
        shape = candidates.rows.shape
        totals: Floats | None = None
        for step in self._scorers:
            plugin = step.plugin
            before = perf_counter() if timed else 0.0
            try:
                scores = plugin.score(request, candidates)
                if scores is step.scores and scores.shape == shape:
                    kept.append(scores)
                    totals = step.weighted if totals is None else totals + step.weighted
                else:
                    scores = _checked(scores, candidates)
                    weighted: Floats = scores * step.weight
                    totals = weighted if totals is None else totals + weighted
                    kept.append(scores)
                    if not scores.flags.writeable:
                        step.scores, step.weighted = scores, weighted
            except Exception as error:
                kept.append(None)
                self._observer.plugin_failed("Scorer", plugin, error)
            if timed:
                step.timer(perf_counter() - before)
            if stamps is not None:
                stamps.append(perf_counter())
        return totals if totals is not None else np.zeros(shape)

    def _pick(self, request: Request, candidates: Candidates, totals: Floats) -> tuple[Endpoint, ...]:
        endpoints = candidates.endpoints
        try:
            picked = tuple([endpoints[i] for i in self.picker.pick(request, candidates, totals)])
            if not picked:
                raise ValueError("picked nothing")
        except Exception as error:
            self._observer.plugin_failed("Picker", self.picker, error)
            picked = (endpoints[int(totals.argmax())],)
        return picked


def _checked(scores: Floats | Sequence[float], candidates: Candidates) -> Floats:
    """One number in [0, 1] per candidate. Raises ValueError."""
    if not isinstance(scores, np.ndarray):
        scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != candidates.rows.shape:
        raise ValueError(f"returned shape {scores.shape} for {len(candidates)} candidates")
    # Looking at the extremes costs a third of clipping, and NaN, which compares false, is one of them.
    if not (scores.item(scores.argmin()) >= 0.0 and scores.item(scores.argmax()) <= 1.0):
        unknown = np.isnan(scores)
        if unknown.any():
            # A load that is not known is NaN in the columns, and scorers need not care: it is worse than any other.
            loads = sum(candidates.column(column)[unknown] for column in _LOADS)
            if not np.isnan(loads).all():
                raise ValueError("returned NaN")
            scores = np.where(unknown, 0.0, scores)
        scores = scores.clip(0.0, 1.0)
    return scores


def _counts(candidates: Candidates, steps: _Steps) -> list[tuple[str, int]]:
    """How many endpoints each step removed."""
    before = [len(candidates), *(len(left) for _, left in steps)]
    return [(name, count - len(left)) for count, (name, left) in zip(before, steps, strict=False)]
