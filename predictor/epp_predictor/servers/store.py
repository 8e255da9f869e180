"""What the training service keeps of samples, and what it tells about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COLUMN, Floats
from epp_predictor.prior import TARGETS
from epp_predictor.retention import retained, strata_of
from epp_predictor.samples import FIRST_FEATURE, OBSERVED, TIME, WIDTH, observed, sound
from epp_predictor.servers.serving import ServedTarget
from epp_predictor.servers.variables import Objectives, TrainingSettings

_CAPACITY: Final = 200_000
_SCORES: Final = 5
_PREFIX: Final = FIRST_FEATURE + COLUMN["prefix_cache_score"]
_KV_STRATA: Final = 20
_PREFIX_STRATA: Final = 4
PREFIX_RANGES: Final = ("0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00")


class Store:
    """Rows of samples, newest last, and the last scores of the models that served."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self.rows: Floats = np.zeros((0, WIDTH))
        self._waiting: list[Floats] = []
        self._waiting_count = 0
        self.scores: dict[str, deque[dict[str, float]]] = {}
        self.forget_scores()

    def add(self, rows: Floats, now_s: float) -> None:
        good = rows[sound(rows)]
        if len(good):
            self._waiting.append(good)
            self._waiting_count += len(good)
        if self._waiting_count > _CAPACITY // 10:
            self.settle(now_s)

    def settle(self, now_s: float) -> None:
        """Put what has come to the rest, and drop what is too much or too old."""
        self.rows = np.concatenate((self.rows, *self._waiting))
        self._waiting, self._waiting_count = [], 0
        s = self._settings
        kept = retained(self.rows, now_s=now_s, max_age_s=s.max_age_s, per_stratum=s.per_stratum, newest=s.most_test)
        self.rows = self.rows[kept][-_CAPACITY:]

    def parts(self, target: str) -> tuple[Floats, Floats]:
        """Samples of this target, oldest first: those that models are fitted on, and the newest, which judge them."""
        fitted_on, judging = self._places(target)
        return self.rows[fitted_on], self.rows[judging]

    def _places(self, target: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The same as numbers of rows."""
        places = np.flatnonzero(observed(self.rows, target))
        places = places[np.argsort(self.rows[places, TIME], kind="stable")]
        newest = min(int(self._settings.test_share * len(places)), self._settings.most_test)
        return places[: len(places) - newest], places[len(places) - newest :]

    def counts(self) -> dict[str, dict[str, int]]:
        parts = {target: self.parts(target) for target in TARGETS}
        told = {}
        for number, name in enumerate(("training_data", "test_data")):
            sizes = {f"{target}_samples": len(parts[target][number]) for target in TARGETS}
            told[name] = {**sizes, "total_samples": sum(sizes.values())}
        return told

    def flush(self, *, training: bool, test: bool) -> dict[str, int]:
        """Forget samples of either part. Returns how many of each target and part there were."""
        self.settle(0.0 if not len(self.rows) else float(self.rows[-1, TIME]))
        flushed, kept = {}, np.zeros(len(self.rows), dtype=bool)
        for target in TARGETS:
            fitted_on, judging = self._places(target)
            flushed[f"{target}_training_samples_flushed"] = len(fitted_on) if training else 0
            flushed[f"{target}_test_samples_flushed"] = len(judging) if test else 0
            kept[fitted_on] |= not training
            kept[judging] |= not test
        self.rows = self.rows[kept]
        return flushed

    def forget_scores(self) -> None:
        self.scores = {target: deque(maxlen=_SCORES) for target in TARGETS}

    # --- scores -----------------------------------------------------------------------------------------------------------

    def score(self, target: str, model: ServedTarget, objectives: Objectives) -> None:
        """How a model does on the newest samples, which it was not fitted on."""
        _, rows = self.parts(target)
        if not len(rows):
            return
        ms = model.predict(rows[:, FIRST_FEATURE:], objectives).ms
        actual = rows[:, OBSERVED[target]]
        apart = actual - ms
        quantile = objectives.quantile
        self.scores[target].append(
            {
                "quantile_loss": float(np.maximum(quantile * apart, (quantile - 1) * apart).mean()),
                "coverage_percent": float((actual <= ms).mean() * 100),
                "violation_rate_percent": float((actual > ms).mean() * 100),
                "mae": float(np.abs(apart).mean()),
                "rmse": float(np.sqrt((apart**2).mean())),
            }
        )

    # --- buckets ----------------------------------------------------------------------------------------------------------

    def buckets(self, target: str) -> Mapping[tuple[int, int, int], int]:
        """Samples by bucket of waiting requests, KV cache and prefix."""
        counts = np.bincount(strata_of(self.parts(target)[0]).astype(np.intp))
        return {
            (
                stratum // (_KV_STRATA * _PREFIX_STRATA),
                stratum // _PREFIX_STRATA % _KV_STRATA,
                stratum % _PREFIX_STRATA,
            ): int(counts[stratum])
            for stratum in np.flatnonzero(counts).tolist()
        }

    def by_prefix(self) -> list[dict[str, float]]:
        """TTFT per quarter of the prefix score: count, mean, median, std, min, max, mean prefix."""
        rows, _ = self.parts("ttft")
        quarter = np.minimum((rows[:, _PREFIX] * _PREFIX_STRATA).astype(int), _PREFIX_STRATA - 1)
        return [_described(rows[quarter == number]) for number in range(_PREFIX_STRATA)]

    def prefix_overall(self) -> dict[str, float]:
        """The prefix scores of all samples, and how they go with TTFT."""
        rows, _ = self.parts("ttft")
        if not len(rows):
            return {"count": 0}
        prefix, ttft = rows[:, _PREFIX], rows[:, OBSERVED["ttft"]]
        varies = len(rows) > 1 and prefix.std() > 0 and ttft.std() > 0
        return {
            "count": len(rows),
            "mean": float(prefix.mean()),
            "std": float(prefix.std()),
            "min": float(prefix.min()),
            "max": float(prefix.max()),
            "correlation_with_ttft": float(np.corrcoef(prefix, ttft)[0, 1]) if varies else 0.0,
        }


def _described(rows: Floats) -> dict[str, float]:
    if not len(rows):
        return {"count": 0}
    ttft = rows[:, OBSERVED["ttft"]]
    return {
        "count": len(rows),
        "mean_ttft": float(ttft.mean()),
        "median_ttft": float(np.median(ttft)),
        "std_ttft": float(ttft.std()),
        "min_ttft": float(ttft.min()),
        "max_ttft": float(ttft.max()),
        "mean_prefix_score": float(rows[:, _PREFIX].mean()),
    }
