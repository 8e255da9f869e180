"""One scheduling profile: filters narrow the candidates, scorers rate what is left, a picker chooses.

The total of a candidate is the sum over the scorers of weight times score, each score clipped to [0, 1], as in the Go EPP.
A scorer that raises, or returns something that is not one finite number per candidate, counts as zero for everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from epp.api import (
    Candidates,
    Code,
    Filter,
    Floats,
    Picker,
    ProfileResult,
    Request,
    RequestError,
    Scorer,
    headers,
)
from epp.scheduling.observer import Observer


class NoEndpointLeft(RequestError):
    """Every candidate was filtered out. `removed` names who removed how many, in order."""

    def __init__(self, profile: str, total: int, removed: Sequence[tuple[str, int]]) -> None:
        by_whom = ", ".join(f"{count} removed by {name}" for name, count in removed)
        super().__init__(
            Code.RESOURCE_EXHAUSTED,
            "failed to find target endpoint: no endpoint can serve this request",
            headers={headers.DROPPED_REASON: "rejected-saturated"},
        )
        self.why_not = f"profile {profile}: 0/{total} endpoints are left" + (f": {by_whom}" if by_whom else "")


class Profile:
    """A named chain of filters, weighted scorers and one picker, in configuration order."""

    __slots__ = (
        "_filters",
        "_observer",
        "_picker",
        "_picker_timer",
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
        self._filters = tuple((f, observer.timer("Filter", f)) for f in filters)
        # Weights as arrays: a Python number would be converted at every multiplication.
        self._scorers = tuple((s, np.array(float(weight)), observer.timer("Scorer", s)) for s, weight in scorers)
        self._picker_timer = observer.timer("Picker", picker)

    def run(self, request: Request, candidates: Candidates, *, timed: bool = False) -> ProfileResult:
        """Raises NoEndpointLeft when the filters leave nothing. `timed`: tell the observer what each plugin costs."""
        left = self._filter(request, candidates, timed=timed) if self._filters else candidates
        if not len(left.rows):
            raise NoEndpointLeft(self.name, len(candidates), ())
        totals = self._score(request, left, timed=timed)
        before = perf_counter() if timed else 0.0
        positions = self._pick(request, left, totals)
        if timed:
            self._picker_timer(perf_counter() - before)
        endpoints = left.endpoints
        return ProfileResult(tuple([endpoints[i] for i in positions]), left, totals)

    def _filter(self, request: Request, candidates: Candidates, *, timed: bool) -> Candidates:
        left = candidates
        removed: list[tuple[str, int]] = []
        for plugin, timer in self._filters:
            if not len(left):
                break
            before = perf_counter()
            try:
                kept = left.keep(plugin.keep(request, left))
            except Exception as error:
                self._observer.plugin_failed("Filter", plugin, error)
                kept = left
            if timed:
                timer(perf_counter() - before)
            if len(kept) != len(left):
                removed.append((plugin.name, len(left) - len(kept)))
                left = kept
        if not len(left):
            raise NoEndpointLeft(self.name, len(candidates), removed)
        return left

    def _score(self, request: Request, candidates: Candidates, *, timed: bool) -> Floats:
        shape = candidates.rows.shape
        totals: Floats | None = None
        for plugin, weight, timer in self._scorers:
            before = perf_counter() if timed else 0.0
            try:
                scores = plugin.score(request, candidates)
                if not isinstance(scores, np.ndarray):
                    scores = np.asarray(scores, dtype=np.float64)
                if scores.shape != shape:
                    raise ValueError(f"returned shape {scores.shape} for {len(candidates)} candidates")
                # Looking at the extremes costs a third of clipping, and NaN, which compares false, is one of them.
                if not (scores.item(scores.argmin()) >= 0.0 and scores.item(scores.argmax()) <= 1.0):
                    if np.isnan(scores).any():
                        raise ValueError("returned NaN")
                    scores = scores.clip(0.0, 1.0)
                weighted: Floats = scores * weight
                totals = weighted if totals is None else totals + weighted
            except Exception as error:
                self._observer.plugin_failed("Scorer", plugin, error)
            if timed:
                timer(perf_counter() - before)
        return totals if totals is not None else np.zeros(shape)

    def _pick(self, request: Request, candidates: Candidates, totals: Floats) -> Sequence[int]:
        try:
            positions = self.picker.pick(request, candidates, totals)
            if len(positions) == 0:
                raise ValueError("picked nothing")
        except Exception as error:
            self._observer.plugin_failed("Picker", self.picker, error)
            positions = (int(totals.argmax()),)
        return positions
