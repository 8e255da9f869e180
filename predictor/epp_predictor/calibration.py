"""How far predictions of one target were off lately, per endpoint, as quantiles: the conformal layer.

A model says `base`; an endpoint that turned slower, or that the model never told apart, is off by a factor. Two things
are learnt from each observed latency:

- an *offset* per endpoint: a moving average of log(observed / base), which follows a slowed endpoint within a few dozen
  requests. Endpoints that were seen little lean on the average of all.
- *scores*: log(observed / base) minus the offset as it was before this observation. Windows of the newest scores, one
  of the endpoint and one of all endpoints, say how wide the spread is; their quantiles, blended by how many the
  endpoint has, give the factor for any quantile. Scores are taken before the model or the offset has learnt from the
  observation, so intervals keep their promise on what comes next (split conformal prediction; with the moving offset it
  follows drift as well).

State is touched by one thread. Endpoints are small numbers; 0 is the endpoint that nobody knows.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import Floats
from epp_predictor.samples import MOST_ENDPOINTS

UNKNOWN: Final = 0
LEVELS: Final = np.array(
    [
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.075,
        *np.arange(0.1, 0.901, 0.05).round(2),
        0.925,
        0.95,
        0.975,
        0.99,
        0.995,
        0.9975,
    ]
)
"""Quantiles that are kept; others are interpolated, and those beyond are the outermost."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How fast it follows and how much it remembers."""

    window: int = 1000
    """Scores kept of all endpoints together."""
    endpoint_window: int = 250
    """Scores kept of each endpoint."""
    rate: float = 0.04
    """Weight of the newest observation in an endpoint's offset, once it has more than 1/rate of them."""
    fleet_rate: float = 0.01
    """The same for the offset of all endpoints together."""
    endpoint_trust: float = 8.0
    """Observations at which an endpoint's own offset counts half."""
    score_trust: float = 60.0
    """Observations at which an endpoint's own spread counts half."""
    most_step: float = 1.0
    """A log ratio further than this from the offset moves it no more than this: one absurd latency moves nothing
    far."""
    refresh: int = 48
    """Quantiles are sorted again after so many observations, and more often while there are few."""


_MOST_AT_ONCE: Final = 512
"""Of more endpoints, factors are worked out for those that are asked for only."""


class Calibration:
    """The state for one target. `observe` while requests finish, `factors` when predicting."""

    def __init__(self, settings: Settings | None = None, endpoints: int = 64) -> None:
        self.settings = settings if settings is not None else Settings()
        self.fleet_offset = 0.0
        self.observations = 0
        self._all = _Window(self.settings.window)
        self._own: dict[int, _Window] = {}
        # By endpoint; the last place is nobody's: it says what is to be said of those that have none yet.
        self._counts = np.zeros(endpoints)
        self._offsets = np.zeros(endpoints)
        self._pull = np.zeros(endpoints)
        """Share of the own offset, times it."""
        self._lean = np.ones(endpoints)
        """Share of the fleet's offset."""
        self._grid_all = np.zeros(len(LEVELS))
        self._grid = np.zeros((endpoints, len(LEVELS)))
        self._blend = np.zeros(endpoints)
        self._fresh = 0
        self._stale: set[int] = set()
        self._spread: dict[tuple[float, ...], Floats] = {}
        self._factors: dict[tuple[float, ...], Floats] = {}
        """By levels, those of all endpoints, until something is learnt."""

    # --- learning ---------------------------------------------------------------------------------------------------------

    def observe(self, endpoint: int, log_ratio: float) -> float:
        """Learn log(observed / base) of a finished request. Returns its score. `log_ratio` must be finite."""
        if not 0 <= endpoint < MOST_ENDPOINTS:
            endpoint = UNKNOWN
        if endpoint >= len(self._counts) - 1:
            self._grow(endpoint + 2)
        settings = self.settings
        score = log_ratio - self.offset(endpoint)
        self._all.add(score)
        if endpoint != UNKNOWN:
            self._follow(endpoint, score, log_ratio)
        self.observations += 1
        self._factors.clear()
        rate = max(settings.fleet_rate, 1 / self.observations)
        self.fleet_offset += rate * _clipped(log_ratio - self.fleet_offset, settings.most_step)
        self._fresh += 1
        # While there are few scores each of them counts.
        if self._fresh >= min(settings.refresh, 1 + self._all.count // 8):
            self._refresh()
        return score

    def _follow(self, endpoint: int, score: float, log_ratio: float) -> None:
        settings = self.settings
        own = self._own.get(endpoint)
        if own is None:
            own = self._own[endpoint] = _Window(settings.endpoint_window)
        own.add(score)
        self._stale.add(endpoint)
        count = self._counts.item(endpoint) + 1
        offset = self._offsets.item(endpoint)
        offset += max(settings.rate, 1 / count) * _clipped(log_ratio - offset, settings.most_step)
        trust = count / (count + settings.endpoint_trust)
        self._counts[endpoint], self._offsets[endpoint] = count, offset
        self._pull[endpoint], self._lean[endpoint] = trust * offset, 1 - trust

    def _refresh(self) -> None:
        self._grid_all = self._all.quantiles()
        for endpoint in self._stale:
            own = self._own[endpoint]
            self._grid[endpoint] = own.quantiles()
            self._blend[endpoint] = own.count / (own.count + self.settings.score_trust)
        self._stale.clear()
        self._fresh = 0
        self._spread.clear()
        self._factors.clear()

    def _grow(self, endpoints: int) -> None:
        more = max(endpoints, 2 * len(self._counts)) - len(self._counts)
        self._counts = np.concatenate((self._counts, np.zeros(more)))
        self._offsets = np.concatenate((self._offsets, np.zeros(more)))
        self._pull = np.concatenate((self._pull, np.zeros(more)))
        self._lean = np.concatenate((self._lean, np.ones(more)))
        self._grid = np.concatenate((self._grid, np.zeros((more, len(LEVELS)))))
        self._blend = np.concatenate((self._blend, np.zeros(more)))
        self._spread.clear()
        self._factors.clear()

    def forget(self, endpoint: int) -> None:
        """An endpoint has gone: free what is kept of it. What it taught about all endpoints stays."""
        self._own.pop(endpoint, None)
        self._stale.discard(endpoint)
        if endpoint < len(self._counts):
            for values in (self._counts, self._offsets, self._pull, self._blend):
                values[endpoint] = 0.0
            self._lean[endpoint] = 1.0
            self._spread.clear()
        self._factors.clear()

    def inherit(self, before: Calibration) -> None:
        """Take over what `before`, beside another model, has learnt of endpoints of which little has been observed here: all
        of it of those that are new here, ever less up to the 1/rate-th observation."""
        known = np.flatnonzero(before._counts)
        if not len(known):
            return
        if known[-1] >= len(self._counts) - 1:
            self._grow(int(known[-1]) + 2)
        counts, counts_before = self._counts[known], before._counts[known]
        weights = np.minimum(counts, counts_before)
        # The two models differ by so much on what both have seen of the same endpoints.
        if weights.any():
            between = float(np.average(self._offsets[known] - before._offsets[known], weights=weights))
        else:
            between = self.fleet_offset - before.fleet_offset
        own = np.minimum(self.settings.rate * counts, 1.0)
        offsets = own * self._offsets[known] + (1 - own) * (before._offsets[known] + between)
        counts = np.where(own < 1, np.maximum(counts, counts_before), counts)
        trust = counts / (counts + self.settings.endpoint_trust)
        self._counts[known], self._offsets[known] = counts, offsets
        self._pull[known], self._lean[known] = trust * offsets, 1 - trust
        self._factors.clear()

    def forget_scores(self) -> None:
        """Keep the offsets, drop the spread: scores of samples that a model was fitted on are too small."""
        self._all = _Window(self.settings.window)
        self._own.clear()
        self._stale.clear()
        self._blend[:] = 0.0
        self._refresh()

    # --- telling ----------------------------------------------------------------------------------------------------------

    def offset(self, endpoint: int) -> float:
        """The log of the factor by which this endpoint differs from what the model says."""
        if endpoint >= len(self._counts):
            return self.fleet_offset
        return self._pull.item(endpoint) + self._lean.item(endpoint) * self.fleet_offset

    def factors(self, endpoints: NDArray[np.intp], levels: tuple[float, ...], *, out: Floats | None = None) -> Floats:
        """What to multiply `base` with, for each quantile level (0 < level < 1) and endpoint: levels by endpoints."""
        table = self._factors.get(levels)
        if table is None:
            if len(self._counts) > _MOST_AT_ONCE:
                return self._factors_of(endpoints, levels, out)
            offsets = self._pull + self._lean * self.fleet_offset
            table = self._factors[levels] = np.exp(self._spread_of(levels) + offsets)
        factors: Floats = table.take(endpoints, axis=1, mode="clip", out=out)
        return factors

    def _factors_of(self, endpoints: NDArray[np.intp], levels: tuple[float, ...], out: Floats | None) -> Floats:
        lean = self._lean.take(endpoints, mode="clip")
        offsets = self._pull.take(endpoints, mode="clip") + lean * self.fleet_offset
        factors: Floats = np.exp(self._spread_of(levels).take(endpoints, axis=1, mode="clip") + offsets, out=out)
        return factors

    def _spread_of(self, levels: tuple[float, ...]) -> Floats:
        spread = self._spread.get(levels)
        if spread is None:
            spread = self._spread[levels] = self._spread_at(levels)
        return spread

    def mean_factors(self, endpoints: NDArray[np.intp]) -> Floats:
        """What to multiply `base` with for the expected value."""
        scores = self._all.newest()
        mean = float(np.exp(np.clip(scores, -3, 3)).mean()) if len(scores) else 1.0
        offsets = self._pull + self._lean * self.fleet_offset
        factors: Floats = mean * np.exp(offsets.take(endpoints, mode="clip"))
        return factors

    def _spread_at(self, levels: Sequence[float]) -> Floats:
        rows = []
        for level in levels:
            after = min(max(bisect.bisect_left(LEVELS, level), 1), len(LEVELS) - 1)
            low, high = LEVELS[after - 1], LEVELS[after]
            part = min(max((level - low) / (high - low), 0.0), 1.0)
            own = (1 - part) * self._grid[:, after - 1] + part * self._grid[:, after]
            of_all = (1 - part) * self._grid_all[after - 1] + part * self._grid_all[after]
            rows.append(self._blend * own + (1 - self._blend) * of_all)
        return np.array(rows)

    def coverage(self, low: float, high: float) -> float:
        """The share of the newest scores within the two levels' present quantiles; NaN without scores. About high -
        low."""
        scores = self._all.newest()
        if not len(scores):
            return float("nan")
        bounds = np.interp((low, high), LEVELS, self._grid_all)
        return float(((scores >= bounds[0]) & (scores <= bounds[1])).mean())

    # --- state that is kept -----------------------------------------------------------------------------------------------

    def state(self) -> CalibrationState:
        owners = np.flatnonzero(self._counts).tolist()
        empty = _Window(0)
        return CalibrationState(
            np.array([self.fleet_offset, self.observations]),
            self._all.newest(),
            np.array(owners, dtype=np.int64),
            np.array([[self._counts[e], self._offsets[e]] for e in owners]).reshape(-1, 2),
            np.array([self._own.get(e, empty).count for e in owners], dtype=np.int64),
            np.concatenate([self._own.get(e, empty).newest() for e in owners]) if owners else np.zeros(0),
        )

    @classmethod
    def restored(cls, state: CalibrationState, settings: Settings | None = None) -> Calibration:
        """Raises ValueError for a state that contradicts itself."""
        state.check()
        made = cls(settings)
        made.fleet_offset, made.observations = float(state.fleet[0]), int(state.fleet[1])
        made._all.extend(state.scores)
        if len(state.endpoints) and state.endpoints.max() >= len(made._counts) - 1:
            made._grow(int(state.endpoints.max()) + 2)
        ends = np.cumsum(state.own_counts)
        for number, endpoint in enumerate(state.endpoints.tolist()):
            own = made._own[endpoint] = _Window(made.settings.endpoint_window)
            own.extend(state.own_scores[ends[number] - state.own_counts[number] : ends[number]])
            count, offset = state.offsets[number]
            made._counts[endpoint], made._offsets[endpoint] = count, offset
            trust = count / (count + made.settings.endpoint_trust)
            made._pull[endpoint], made._lean[endpoint] = trust * offset, 1 - trust
            made._stale.add(endpoint)
        made._refresh()
        return made


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationState:
    """What is kept of a calibration: arrays only."""

    fleet: Floats = field(default_factory=lambda: np.zeros(2))
    """The offset of all endpoints, and how many observations there were."""
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    endpoints: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    offsets: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    """For each endpoint: observations, offset."""
    own_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    own_scores: Floats = field(default_factory=lambda: np.zeros(0))
    """The endpoints' scores one after the other, as many of each as `own_counts` says."""

    def check(self) -> None:
        count = len(self.endpoints)
        fits = (
            self.fleet.shape == (2,)
            and self.offsets.shape == (count, 2)
            and self.own_counts.shape == (count,)
            and bool((self.own_counts >= 0).all())
            and int(self.own_counts.sum()) == len(self.own_scores)
            and (count == 0 or 0 < self.endpoints.min() <= self.endpoints.max() < MOST_ENDPOINTS)
        )
        finite = all(np.isfinite(a).all() for a in (self.fleet, self.scores, self.offsets, self.own_scores))
        if not fits or not finite:
            raise ValueError("calibration: arrays do not fit together or are not finite")


class _Window:
    """The newest `size` numbers."""

    __slots__ = ("_next", "_values", "count")

    def __init__(self, size: int) -> None:
        self._values = np.zeros(size)
        self._next = 0
        self.count = 0

    def add(self, value: float) -> None:
        self._values[self._next] = value
        self._next = (self._next + 1) % len(self._values)
        self.count = min(self.count + 1, len(self._values))

    def extend(self, values: Floats) -> None:
        for value in values[-len(self._values) :].tolist():
            self.add(value)

    def newest(self) -> Floats:
        """Oldest first."""
        if self.count < len(self._values):
            return self._values[: self.count].copy()
        return np.concatenate((self._values[self._next :], self._values[: self._next]))

    def quantiles(self) -> Floats:
        """At LEVELS, with the conformal correction for few numbers: the ceil((n + 1) level)-th smallest, mirrored under
        1/2."""
        if not self.count:
            return np.zeros(len(LEVELS))
        ordered = np.sort(self._values[: self.count])
        below, above, part = _ranks(self.count)
        quantiles: Floats = (1 - part) * ordered[below] + part * ordered[above]
        return quantiles


@lru_cache(maxsize=64)
def _ranks(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """For LEVELS: the two places among so many sorted numbers, and the share of the second."""
    upper = np.ceil((count + 1) * LEVELS) - 1
    lower = np.floor((count + 1) * LEVELS) - 1
    rank = np.where(LEVELS > 0.5, upper, np.where(LEVELS < 0.5, lower, (count - 1) / 2))
    rank = np.clip(rank, 0, count - 1)
    below = rank.astype(np.intp)
    return below, np.minimum(below + 1, count - 1), rank - below


def _clipped(value: float, most: float) -> float:
    return min(max(value, -most), most)
