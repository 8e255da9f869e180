"""When to fit, on what, and whether to publish it. No process, no clock of its own: rows and the time come in,
snapshots go out.

A candidate is fitted on all samples but the newest tenth, and judged on that tenth beside the model in use, both with
offsets that follow the endpoints as they do when serving. Only what has the smaller error is published, and its
calibration begins with the scores of that tenth, which the candidate has never seen. So poisoned samples cost a fit,
not the model: either they are refused (not finite, out of range), or they say nothing that predicts (constant, random),
and then nothing is beaten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.calibration import Calibration
from epp_predictor.drift import INTERVAL, Drift
from epp_predictor.features import Floats
from epp_predictor.fitting import Recipe, fit
from epp_predictor.model import Model, TargetModel
from epp_predictor.prior import TARGETS
from epp_predictor.retention import retained
from epp_predictor.samples import CENSORED, ENDPOINT, FIRST_FEATURE, OBSERVED, TIME, WIDTH, observed, sound
from epp_predictor.snapshot import Snapshot, TargetSnapshot

_TAILS: Final = ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    interval_s: float = 10.0
    """Between two fits, unless something drifts."""
    fewest_samples: int = 100
    """Before the first fit of a target."""
    fewest_to_replace: int = 100
    """Before a model in use is replaced."""
    fewest_new: int = 50
    """Samples since the last fit before there is another."""
    drift_pause_s: float = 2.0
    """Between two fits while something drifts."""
    max_age_s: float = 1800.0
    """Older samples are dropped."""
    per_stratum: int = 100
    newest: int = 2000
    """Newest samples that are kept whatever their stratum."""
    capacity: int = 40_000
    """Samples held before the dispensable ones are dropped."""
    held_out_share: float = 0.1
    fewest_held_out: int = 40
    most_held_out: int = 1000
    margin: float = 0.995
    """A candidate's error must be under this share of the error of the model in use."""
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fit of one target."""

    target: str
    result: str
    """`published`, `rejected` (does not beat the model in use), `refused` (the samples cannot be learnt from),
    `failed`."""
    text: str
    error: float | None = None
    """Mean absolute log error on the newest samples; None when nothing was fitted."""
    error_in_use: float | None = None
    """The same of the model in use; None when there is none."""
    samples: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What came of one round: an outcome for each target that had samples enough, and a snapshot if any was
    published."""

    reason: str
    outcomes: tuple[Outcome, ...]
    snapshot: Snapshot | None


class Trainer:
    def __init__(self, settings: TrainerSettings | None = None, *, in_use: Snapshot | None = None) -> None:
        self.settings = settings if settings is not None else TrainerSettings()
        self.refused = 0
        """Rows that were not sound."""
        self._rows = np.zeros((0, WIDTH))
        self._waiting: list[Floats] = []
        self._samples = 0
        self._held = dict.fromkeys(TARGETS, 0)
        self._new = dict.fromkeys(TARGETS, 0)
        self._fitted_at_s = -np.inf
        self._in_use: dict[str, TargetSnapshot] = {}
        self._watched: dict[str, _Watched] = {}
        if in_use is not None:
            for target, kept in in_use.targets.items():
                self._use(target, kept)

    @property
    def samples(self) -> int:
        return self._samples

    # --- samples in -------------------------------------------------------------------------------------------------------

    def add(self, rows: Floats, now_s: float) -> int:
        """Returns how many rows were sound."""
        good = rows[sound(rows)]
        self.refused += len(rows) - len(good)
        if not len(good):
            return 0
        for target in TARGETS:
            seen = _seen(good, target)
            count = int(np.count_nonzero(seen))
            self._held[target] += count
            self._new[target] += count
            if target in self._watched:
                self._watched[target].add(good[seen], target)
        self._waiting.append(good)
        self._samples += len(good)
        if self._samples > self.settings.capacity:
            self._drop(now_s)
        return len(good)

    def _settle(self) -> None:
        """Put what has come to the rest: once a fit, not once a batch, since it copies all of them."""
        if self._waiting:
            self._rows = np.concatenate((self._rows, *self._waiting))
            self._waiting.clear()

    def _drop(self, now_s: float) -> None:
        self._settle()
        s = self.settings
        kept = retained(self._rows, now_s=now_s, max_age_s=s.max_age_s, per_stratum=s.per_stratum, newest=s.newest)
        self._rows = self._rows[kept]
        self._samples = len(self._rows)
        self._held = {target: int(np.count_nonzero(_seen(self._rows, target))) for target in TARGETS}

    def flush(self) -> int:
        """Forget all samples; models stay. Returns how many there were."""
        count, self._rows = self._samples, np.zeros((0, WIDTH))
        self._waiting.clear()
        self._samples = 0
        self._held = dict.fromkeys(TARGETS, 0)
        self._new = dict.fromkeys(TARGETS, 0)
        return count

    # --- models out -------------------------------------------------------------------------------------------------------

    def due(self, now_s: float) -> str:
        """Why to fit now: `interval`, or what drifted; empty while no target has news enough, or nothing to be fitted on."""
        s = self.settings
        since_s = now_s - self._fitted_at_s
        for target in TARGETS:
            if self._new[target] < s.fewest_new or self._held[target] < self._fewest(target):
                continue
            if since_s >= s.interval_s:
                return "interval"
            watched = self._watched.get(target)
            if since_s >= s.drift_pause_s and watched is not None and watched.drift.reason:
                return f"{target} {watched.drift.reason}"
        return ""

    def _fewest(self, target: str) -> int:
        return self.settings.fewest_to_replace if target in self._in_use else self.settings.fewest_samples

    def train(self, now_s: float, reason: str = "asked") -> Training:
        """Fit and judge both targets. Never raises for what samples contain: an outcome tells."""
        self._fitted_at_s = now_s
        self._new = dict.fromkeys(TARGETS, 0)
        self._drop(now_s)
        outcomes = [outcome for target in TARGETS if (outcome := self._train_target(target, now_s)) is not None]
        is_published = any(outcome.result == "published" for outcome in outcomes)
        for watched in self._watched.values():
            watched.drift.reset()
        return Training(reason, tuple(outcomes), Snapshot(dict(self._in_use), now_s) if is_published else None)

    def _train_target(self, target: str, now_s: float) -> Outcome | None:
        rows = self._usable(target)
        s = self.settings
        if len(rows) < self._fewest(target):
            return None
        held = min(max(int(s.held_out_share * len(rows)), s.fewest_held_out), s.most_held_out)
        held = max(min(held, len(rows) // 3), 1)
        older, newest = rows[:-held], rows[-held:]
        if problem := unlearnable(older, newest, target):
            return Outcome(target, "refused", problem, samples=len(rows))
        try:
            candidate = fit(
                older[:, FIRST_FEATURE:],
                older[:, OBSERVED[target]],
                older[:, ENDPOINT].astype(np.intp),
                now_s - older[:, TIME],
                target=target,
                recipe=s.recipe,
                now_s=now_s,
            )
            judged = _judge(Model({target: candidate}), older, newest, target)
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
            return Outcome(target, "failed", f"{type(error).__name__}: {error}", samples=len(rows))
        return self._decide(target, candidate, judged, older, newest)

    def _decide(
        self, target: str, candidate: TargetModel, judged: _Judgement, older: Floats, newest: Floats
    ) -> Outcome:
        in_use = self._in_use.get(target)
        error_in_use = None
        if in_use is not None:
            error_in_use = _judge(Model({target: in_use.model}), older, newest, target).error
        samples, error = len(older) + len(newest), judged.error
        problem = ""
        if not _is_useful(error, _error_of_constant(older, newest, target)):
            problem = "says no more than a constant"
        elif error_in_use is not None and not error < self.settings.margin * error_in_use:
            problem = "does not beat the model in use"
        if problem:
            text = f"{problem} on the newest {len(newest)} samples"
            return Outcome(target, "rejected", text, error, error_in_use, samples)
        version = 1 if in_use is None else in_use.version + 1
        self._use(target, TargetSnapshot(candidate, judged.calibration.state(), version, error))
        return Outcome(target, "published", f"version {version}", error, error_in_use, samples)

    def _use(self, target: str, snapshot: TargetSnapshot) -> None:
        self._in_use[target] = snapshot
        self._watched[target] = _Watched(
            Model({target: snapshot.model}), Calibration.restored(snapshot.calibration), Drift()
        )

    def _usable(self, target: str) -> Floats:
        """Rows to learn this target from, oldest first. A request that was given up counts if it was already late by
        then."""
        self._settle()
        rows = self._rows[observed(self._rows, target)]
        given_up = rows[:, CENSORED] != 0
        if given_up.any():
            late = np.zeros(len(rows), dtype=bool)
            if target in self._in_use:
                base = Model({target: self._in_use[target].model}).base_ms(rows[:, FIRST_FEATURE:])[0][0]
                late = rows[:, OBSERVED[target]] > base
            rows = rows[~given_up | late]
        return rows[np.argsort(rows[:, TIME], kind="stable")]


def _seen(rows: Floats, target: str) -> NDArray[np.bool_]:
    """Which rows have a whole latency of this target: not that of a request that was given up."""
    seen: NDArray[np.bool_] = observed(rows, target) & (rows[:, CENSORED] == 0)
    return seen


class _Watched:
    """The model in use as the serving process sees it, for noticing drift."""

    def __init__(self, model: Model, calibration: Calibration, drift: Drift) -> None:
        self.model = model
        self.calibration = calibration
        self.drift = drift

    def add(self, rows: Floats, target: str) -> None:
        if not len(rows):
            return
        base = self.model.base_ms(rows[:, FIRST_FEATURE:])[0][0]
        endpoints = rows[:, ENDPOINT].astype(np.intp)
        ratios = np.log(rows[:, OBSERVED[target]] / base)
        for place, ratio in enumerate(ratios.tolist()):
            low, high = np.log(self.calibration.factors(endpoints[place : place + 1], _TAILS)[:, 0]).tolist()
            score = self.calibration.observe(int(endpoints[place]), ratio)
            self.drift.add(score, low <= ratio <= high)


@dataclass(frozen=True, slots=True, eq=False)
class _Judgement:
    error: float
    calibration: Calibration


_WARM_UP: Final = 400
_WARM_UP_OF_EACH: Final = 50
"""Of an endpoint that is sent less, or nothing for a while, because it is slow: with none it would be taken for a usual one."""
_MOST_ERROR: Final = 1.0
"""No sample's log error counts more: a few absurd latencies must not decide."""
_SMALL_ERROR: Final = 0.3
_TINY_ERROR: Final = 0.1
_MOST_EQUAL: Final = 0.5


def _judge(model: Model, older: Floats, newest: Floats, target: str) -> _Judgement:
    warm_up = _warm_up(older)
    rows = np.concatenate((warm_up, newest))
    base = model.base_ms(rows[:, FIRST_FEATURE:])[0][0]
    return _followed(np.log(rows[:, OBSERVED[target]] / base), rows[:, ENDPOINT].astype(np.intp), len(warm_up))


def _warm_up(older: Floats) -> Floats:
    """The newest of all, and of each endpoint. `older`: the oldest first."""
    chosen = np.zeros(len(older), dtype=np.bool_)
    chosen[-_WARM_UP:] = True
    for endpoint in np.unique(older[:, ENDPOINT]):
        chosen[np.flatnonzero(older[:, ENDPOINT] == endpoint)[-_WARM_UP_OF_EACH:]] = True
    return older[chosen]


def _error_of_constant(older: Floats, newest: Floats, target: str) -> float:
    """What the median of all would be worth, with offsets that follow the endpoints just the same."""
    warm_up = _warm_up(older)
    rows = np.concatenate((warm_up, newest))
    middle = float(np.median(older[:, OBSERVED[target]]))
    ratios = np.log(rows[:, OBSERVED[target]] / middle)
    return _followed(ratios, rows[:, ENDPOINT].astype(np.intp), len(warm_up)).error


def _is_useful(error: float, error_of_constant: float) -> bool:
    """Whether a model knows anything: clearly better than a constant, or near the truth where a constant is as well
    (TPOT under an even load), or so near that it does not matter which is nearer. Latencies at random are none of it."""
    nearly_as_good = min(_SMALL_ERROR, 1.05 * error_of_constant)
    return error < max(0.9 * error_of_constant, nearly_as_good, _TINY_ERROR)


def _followed(log_ratios: Floats, endpoints: NDArray[np.intp], warm_up: int) -> _Judgement:
    """Go through the samples in time as the serving process does. The first `warm_up` of them teach offsets only: a
    model was fitted on them, so their scores would look too good."""
    calibration = Calibration()
    for endpoint, ratio in zip(endpoints[:warm_up].tolist(), log_ratios[:warm_up].tolist(), strict=True):
        calibration.observe(endpoint, ratio)
    calibration.forget_scores()
    scores = [
        calibration.observe(endpoint, ratio)
        for endpoint, ratio in zip(endpoints[warm_up:].tolist(), log_ratios[warm_up:].tolist(), strict=True)
    ]
    return _Judgement(float(np.minimum(np.abs(scores), _MOST_ERROR).mean()), calibration)


def unlearnable(older: Floats, newest: Floats, target: str) -> str:
    """Why nothing can be learnt from these, or empty. Both must have rows."""
    for which, rows in (("samples", older), ("newest samples", newest)):
        _, counts = np.unique(rows[:, OBSERVED[target]], return_counts=True)
        if counts.max() > _MOST_EQUAL * len(rows):
            return f"{counts.max()} of {len(rows)} {which} have exactly the same latency"
    features = older[:, FIRST_FEATURE:]
    if (features == features[0]).all():
        return "all samples have the same features"
    return ""
