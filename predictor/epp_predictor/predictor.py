"""What an Endpoint Picker uses: predict for candidates, keep what was decided, tell what happened.

    predictor = Predictor()
    features = new_features(len(candidates))
    features[:, COLUMN["num_request_waiting"]] = waiting              # and so on, one column at a time
    prediction = predictor.predict(features, endpoints)               # endpoints: numbers from predictor.endpoint(name)
    if prediction.ttft is not None:                                   # None: untrained, nothing is claimed
        prediction.ttft.ms, prediction.ttft.low_ms, prediction.ttft.at(0.95)
    decision = prediction.keep(chosen)                                # a few hundred bytes, kept with the request
    ...
    predictor.observe(decision, ttft_ms=180.0)                        # at its first token
    predictor.observe(decision, tpot_ms=11.2)                         # at its end

Everything is synchronous and meant for one thread; nothing does I/O. A new model comes with `publish`, by one
assignment.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from epp_predictor import samples
from epp_predictor.calibration import UNKNOWN, Calibration, Settings
from epp_predictor.features import COUNT, Floats
from epp_predictor.model import Model
from epp_predictor.prior import LEAST_MS, TARGETS
from epp_predictor.snapshot import Snapshot, TargetSnapshot

_NAN: Final = float("nan")
_GONE_FIRST: Final = 1000
_ELSEWHERE: Final = -1
_ENOUGH: Final = 20
_INHERITED_S: Final = 1800.0
"""After a restart, for as long as samples of the process before would have counted (TrainerSettings.max_age_s)."""
_NOTHING_SAID: Final = (_NAN,) * 6


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """The model in use and its calibrations: replaced as a whole."""

    number: int
    """Another number is another model."""
    model: Model | _Said
    calibrations: Mapping[str, Calibration]
    targets: Mapping[str, TargetSnapshot]


class _Said:
    """What a model elsewhere says of the candidates of one request."""

    targets = TARGETS

    def __init__(self, ms: Floats) -> None:
        self._ms = np.maximum(ms, LEAST_MS)

    def base_ms(self, features: Floats, *, are_clean: bool = False) -> tuple[Floats, Floats]:
        return self._ms, np.zeros(len(features))


class Estimate:
    """One target, for every candidate."""

    __slots__ = ("_base_ms", "_calibration", "_endpoints", "levels_ms")

    def __init__(
        self, levels_ms: Floats, base_ms: Floats, calibration: Calibration, endpoints: NDArray[np.intp]
    ) -> None:
        self.levels_ms = levels_ms
        """`ms`, `low_ms` and `high_ms` as the three rows of one matrix."""
        self._base_ms = base_ms
        self._calibration = calibration
        self._endpoints = endpoints

    @property
    def ms(self) -> Floats:
        """The quantile that was asked for (by default the median), in ms, one per candidate."""
        ms: Floats = self.levels_ms[0]
        return ms

    @property
    def low_ms(self) -> Floats:
        """The lower end of the interval."""
        ms: Floats = self.levels_ms[1]
        return ms

    @property
    def high_ms(self) -> Floats:
        """The upper end: the share `interval` of all requests lies between the two, as many under as over it."""
        ms: Floats = self.levels_ms[2]
        return ms

    @property
    def mean_ms(self) -> Floats:
        """The expected value."""
        ms: Floats = self._base_ms * self._calibration.mean_factors(self._endpoints)
        return ms

    def at(self, level: float) -> Floats:
        """Any other quantile, 0 < level < 1."""
        factors = self._calibration.factors(self._endpoints, (level,))
        ms: Floats = self._base_ms * factors[0]
        return ms


class Decision(msgspec.Struct, frozen=True, eq=False):
    """What was known and said of the chosen candidate, to be handed back when its latencies are known."""

    features: Floats
    endpoint: int
    model_number: int
    base_ms: Mapping[str, float]
    ttft_ms: float
    """The prediction made then; NaN untrained. The other three: its interval."""
    ttft_low_ms: float
    ttft_high_ms: float
    tpot_ms: float
    tpot_low_ms: float
    tpot_high_ms: float


class Prediction:
    """For one request: an estimate per target, or None for a target that has no model yet."""

    def __init__(
        self,
        live: Live | None,
        features: Floats,
        endpoints: NDArray[np.intp],
        quantile: float,
        interval: float,
        *,
        are_clean: bool = False,
    ) -> None:
        self._live = live
        self._features = features
        self._endpoints = endpoints
        self._base_ms: Floats
        self._outside: Floats
        self.levels_ms: Floats | None = None
        """For TARGETS, the quantile that was asked for and the ends of the interval, per candidate: three dimensions. NaN
        for a target without a model; None without any."""
        if live is None:
            return
        self._base_ms, self._outside = live.model.base_ms(features, are_clean=are_clean)
        tail = (1 - interval) / 2
        levels, targets = (quantile, tail, 1 - tail), live.model.targets
        self.levels_ms = np.empty((len(TARGETS), len(levels), len(endpoints)))
        of_targets = self.levels_ms
        if len(targets) < len(TARGETS):
            self.levels_ms[...] = _NAN
            first = TARGETS.index(targets[0])
            of_targets = self.levels_ms[first : first + len(targets)]
        for number, target in enumerate(targets):  # at the end of an iteration over an array numpy words an error
            live.calibrations[target].factors(endpoints, levels, out=of_targets[number])
        of_targets *= self._base_ms[:, None]

    @property
    def ttft(self) -> Estimate | None:
        return self._estimate("ttft")

    @property
    def tpot(self) -> Estimate | None:
        return self._estimate("tpot")

    def _estimate(self, target: str) -> Estimate | None:
        live, levels_ms = self._live, self.levels_ms
        if live is None or levels_ms is None or target not in live.model.targets:
            return None
        base_ms = self._base_ms[live.model.targets.index(target)]
        return Estimate(levels_ms[TARGETS.index(target)], base_ms, live.calibrations[target], self._endpoints)

    @property
    def outside(self) -> Floats:
        """Per candidate, how far its features are from what the model has seen: 0 within, 1 a whole range away in one
        of them. There the prior extrapolates and intervals promise less."""
        return np.zeros(len(self._endpoints)) if self._live is None else self._outside

    def keep(self, candidate: int) -> Decision:
        """For `Predictor.observe`. `candidate`: a row of the features."""
        features, endpoint = self._features[candidate].copy(), self._endpoints.item(candidate)
        live, levels_ms = self._live, self.levels_ms
        if live is None or levels_ms is None:
            return Decision(features, endpoint, 0, {}, *_NOTHING_SAID)
        base_ms = dict(zip(live.model.targets, self._base_ms[:, candidate].tolist(), strict=True))
        return Decision(features, endpoint, live.number, base_ms, *levels_ms[..., candidate].ravel().tolist())


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """How one target is doing, for a status page and metrics."""

    version: int
    samples: int
    fitted_at_s: float
    age_s: float
    error_at_publication: float
    observations: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """How the newest predictions of one target came out, whoever made them."""

    count: int
    coverage: float
    """Share of the observations within the interval that was predicted for them."""
    median_error: float
    """Median of |observed / predicted median - 1| of the same."""


class Predictor:
    """One per process. `on_sample` is given each sound observation as a row (`samples`), for training."""

    def __init__(
        self,
        *,
        quantile: float = 0.5,
        interval: float = 0.9,
        settings: Settings | None = None,
        on_sample: Callable[[Floats], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.quantile = _share(quantile)
        self.interval = _share(interval)
        self.on_sample = on_sample
        self.refused = 0
        """Observations that could not be true (NaN, not positive, hours) and were left out."""
        self._settings = settings if settings is not None else Settings()
        self._clock = clock
        self._live: Live | None = None
        self._numbers: dict[str, int] = {}
        self._last_number = UNKNOWN
        self._gone: deque[int] = deque()
        self._judged: dict[str, _Judged] = {target: _Judged() for target in TARGETS}
        self._inherited_until_s = -math.inf
        self._elsewhere = {target: Calibration(self._settings) for target in TARGETS}

    # --- endpoints --------------------------------------------------------------------------------------------------------

    def endpoint(self, name: str) -> int:
        """The number of the endpoint with this name, given at first sight. The number of one that has gone is given to
        another only after a thousand others have gone: its last samples are too old to be mistaken by then."""
        number = self._numbers.get(name)
        if number is not None:
            return number
        if len(self._gone) > _GONE_FIRST or self._last_number == samples.MOST_ENDPOINTS - 1:
            number = self._gone.popleft() if self._gone else UNKNOWN
            self._forget_number(number)
        else:
            self._last_number += 1
            number = self._last_number
        if number != UNKNOWN:
            self._numbers[name] = number
        return number

    def forget(self, name: str) -> None:
        """The endpoint has gone. One of the same name gets a new number: it may be another machine."""
        number = self._numbers.pop(name, None)
        if number is not None:
            self._gone.append(number)
            self._forget_number(number)

    def _forget_number(self, number: int) -> None:
        if number == UNKNOWN:
            return
        calibrations = list(self._elsewhere.values())
        if self._live is not None:
            calibrations += self._live.calibrations.values()
        for calibration in calibrations:
            calibration.forget(number)

    # --- predicting -------------------------------------------------------------------------------------------------------

    @property
    def is_trained(self) -> bool:
        """Whether any target has a model."""
        return self._live is not None

    def predict(
        self,
        features: Floats,
        endpoints: NDArray[np.intp],
        *,
        quantile: float | None = None,
        interval: float | None = None,
        are_clean: bool = False,
    ) -> Prediction:
        """`features`: candidates by FEATURES (`new_features`); `endpoints`: their numbers, 0 where unknown. `are_clean`: no
        feature is NaN, -0.0 or out of range.

        Raises ValueError for shapes that do not fit, and for a quantile or an interval that is none.
        """
        if features.shape != (len(endpoints), COUNT):
            raise ValueError(f"expected features of shape {(len(endpoints), COUNT)}, got {features.shape}")
        quantile = self.quantile if quantile is None else _share(quantile)
        interval = self.interval if interval is None else _share(interval)
        return Prediction(self._live, features, endpoints, quantile, interval, are_clean=are_clean)

    def calibrate(self, said_ms: Floats, features: Floats, endpoints: NDArray[np.intp]) -> Prediction:
        """As `predict`, of what a model elsewhere has said: TTFT and TPOT in ms, a column per candidate, whatever quantile.

        Its calibration is learnt here, from decisions that are kept of such predictions; until there were twenty, ends of
        intervals are NaN. Raises ValueError for shapes that do not fit.
        """
        if said_ms.shape != (len(TARGETS), len(endpoints)) or features.shape != (len(endpoints), COUNT):
            raise ValueError(
                f"{said_ms.shape} predictions and {features.shape} features of {len(endpoints)} candidates"
            )
        live = Live(_ELSEWHERE, _Said(said_ms), self._elsewhere, {})
        prediction = Prediction(live, features, endpoints, self.quantile, self.interval)
        for estimate, target in ((prediction.ttft, "ttft"), (prediction.tpot, "tpot")):
            if estimate is not None and self._elsewhere[target].observations < _ENOUGH:
                estimate.levels_ms[1:] = _NAN
        return prediction

    # --- learning ---------------------------------------------------------------------------------------------------------

    def observe(
        self,
        decision: Decision,
        *,
        ttft_ms: float | None = None,
        tpot_ms: float | None = None,
        is_censored: bool = False,
    ) -> bool:
        """Learn what happened. `is_censored`: the request was given up, so that the latency is only a lower bound; it
        counts when it is beyond what was predicted. False: it cannot be true and was left out."""
        given = {"ttft": ttft_ms, "tpot": tpot_ms}
        values = {t: v for t, v in given.items() if v is not None and samples.is_latency(v, t)}
        if len(values) != sum(v is not None for v in given.values()):
            self.refused += 1
        if not values:
            return False
        live = self._live
        if decision.model_number == _ELSEWHERE:
            self._learn(self._elsewhere, decision.base_ms, decision, values, is_censored)
        elif live is not None:
            self._calibrate(live, decision, values, is_censored)
        if self.on_sample is not None:
            row = samples.row(
                decision.features,
                decision.endpoint,
                ttft_ms=values.get("ttft", _NAN),
                tpot_ms=values.get("tpot", _NAN),
                time_s=self._clock(),
                is_censored=is_censored,
            )
            self.on_sample(row)
        return True

    def _calibrate(self, live: Live, decision: Decision, values: Mapping[str, float], is_censored: bool) -> None:
        base_ms = decision.base_ms
        if decision.model_number != live.number:
            again, _ = live.model.base_ms(decision.features[None])
            base_ms = {target: float(again[row, 0]) for row, target in enumerate(live.model.targets)}
        self._learn(live.calibrations, base_ms, decision, values, is_censored)

    def _learn(
        self,
        calibrations: Mapping[str, Calibration],
        base_ms: Mapping[str, float],
        decision: Decision,
        values: Mapping[str, float],
        is_censored: bool,
    ) -> None:
        for target, value in values.items():
            base = base_ms.get(target)
            if base is None:
                continue
            calibration = calibrations[target]
            log_ratio = math.log(value / base)
            if is_censored and log_ratio < calibration.offset(decision.endpoint):
                continue
            calibration.observe(decision.endpoint, log_ratio)
            if not is_censored:
                self._judged[target].add(value, decision, target)

    def publish(self, snapshot: Snapshot) -> None:
        """Use these models from now on. A target whose version has not changed keeps its calibration."""
        before = self._live
        calibrations = {}
        for target, published in snapshot.targets.items():
            same = (
                before is not None and target in before.targets and before.targets[target].version == published.version
            )
            if before is not None and same:
                calibrations[target] = before.calibrations[target]
            else:
                calibration = calibrations[target] = Calibration.restored(published.calibration, self._settings)
                if before is not None and target in before.calibrations and self._clock() < self._inherited_until_s:
                    # An endpoint that is avoided has no samples of this process, and is no usual one for that.
                    calibration.inherit(before.calibrations[target])
        model = Model({target: published.model for target, published in snapshot.targets.items()})
        number = 1 if before is None else before.number + 1
        self._live = Live(number, model, calibrations, snapshot.targets)

    def restore(self, snapshot: Snapshot) -> None:
        """Publish a snapshot of an earlier process: its endpoints keep their names and get its numbers, and for a while what
        was known of them goes on with the next models. For a fresh predictor."""
        if self._numbers:
            raise ValueError("a predictor that knows endpoints already cannot take over those of a snapshot")
        self._numbers = dict(snapshot.endpoints)
        self._last_number = max(self._numbers.values(), default=UNKNOWN)
        self.publish(snapshot)
        self._inherited_until_s = self._clock() + _INHERITED_S

    def snapshot(self) -> Snapshot | None:
        """What is in use now, calibrations as of now, to be saved. None when untrained."""
        live = self._live
        if live is None:
            return None
        targets = {
            target: TargetSnapshot(kept.model, live.calibrations[target].state(), kept.version, kept.error)
            for target, kept in live.targets.items()
        }
        return Snapshot(targets, self._clock(), dict(self._numbers))

    # --- telling how it goes ----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, TargetStatus]:
        """Per trained target."""
        live = self._live
        if live is None:
            return {}
        now_s = self._clock()
        return {
            target: TargetStatus(
                kept.version,
                kept.model.samples,
                kept.model.fitted_at_s,
                max(now_s - kept.model.fitted_at_s, 0.0),
                kept.error,
                live.calibrations[target].observations,
            )
            for target, kept in live.targets.items()
        }

    def judged(self) -> dict[str, Judgement]:
        """Per target of which any prediction has been compared with what happened."""
        return {target: told for target, judged in self._judged.items() if (told := judged.told()) is not None}


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"expected a quantile or an interval between 0 and 1, both exclusive, got {value}")
    return value


class _Judged:
    """Of the newest predictions of one target: whether the interval held, and how far the prediction was off."""

    __slots__ = ("_count", "_errors", "_held")

    def __init__(self, size: int = 500) -> None:
        self._held = np.zeros(size)
        self._errors = np.zeros(size)
        self._count = 0

    def add(self, value_ms: float, decision: Decision, target: str) -> None:
        ms, low, high = (
            (decision.ttft_ms, decision.ttft_low_ms, decision.ttft_high_ms)
            if target == "ttft"
            else (decision.tpot_ms, decision.tpot_low_ms, decision.tpot_high_ms)
        )
        if not low <= high:  # nothing was predicted, or no interval
            return
        place = self._count % len(self._held)
        self._held[place] = low <= value_ms <= high
        self._errors[place] = abs(value_ms / ms - 1)
        self._count += 1

    def told(self) -> Judgement | None:
        if not self._count:
            return None
        held, errors = self._held[: self._count], self._errors[: self._count]
        return Judgement(len(held), float(held.mean()), float(np.median(errors)))
