"""How good predictions were, from recorded observations: error, bias, coverage, by load and by endpoint. Pure.

Two questions. *As served*: what was predicted at each decision, beside what happened. *Trained again*: a model fitted on
the first part of the records, judged on the later part, which it has not seen. For both the yardstick is a line fitted on
the first part through uncached tokens (the request's own and those in flight): what a simple load-aware picker knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from epp_predictor.features import COLUMN, Floats
from epp_predictor.history import Records
from epp_predictor.predictor import Predictor
from epp_predictor.samples import CENSORED, ENDPOINT, FIRST_FEATURE, OBSERVED, TIME, WIDTH
from epp_predictor.trainer import Trainer, TrainerSettings

INTERVAL: Final = 0.9
_DECILES: Final = 10
_WINDOWS: Final = 40
_FEWEST: Final = 20


@dataclass(frozen=True, slots=True)
class Quality:
    """Of some predictions. Shares are fractions; NaN where there is nothing to say."""

    count: int
    median_error: float
    """Median of |observed - predicted| / observed."""
    p90_error: float
    bias: float
    """Median of predicted / observed, less 1: above 0 it promises too much time."""
    coverage: float
    """Share of observations within the interval, which promises 0.9."""
    coverage_margin: float
    """Half the width of the 95 % interval of that share."""
    line_error: float
    """Median error of the yardstick on the same observations."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the observations, by what they have in common."""

    name: str
    quality: Quality


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Of one target. `records` are those that were judged, `predicted_ms` and the interval what was judged."""

    target: str
    records: Records
    overall: Quality
    by_load: tuple[Part, ...]
    by_endpoint: tuple[Part, ...]
    over_time: tuple[tuple[float, float, float], ...]
    """Window by window: seconds since the first record, coverage, median error."""


def load_of(features: Floats) -> Floats:
    """Uncached prompt tokens before a request at its endpoint: its own, and those in flight without a first token."""
    own = features[:, COLUMN["input_token_length"]] * (1 - features[:, COLUMN["prefix_cache_score"]])
    waiting: Floats = own + features[:, COLUMN["uncached_tokens_in_flight"]]
    return waiting


def as_served(records: Records) -> Evaluation | None:
    """What was predicted at the decisions. None where nothing was predicted at all."""
    known = np.isfinite(records.predicted_ms) & ~records.censored
    if not known.any():
        return None
    whole = records.where(~records.censored)
    line = _line(whole.where(np.arange(len(whole)) < max(len(whole) // 2, 1)))
    return _evaluate(records.where(known), line)


def trained_again(
    records: Records, *, share: float = 0.5, settings: TrainerSettings | None = None
) -> Evaluation | None:
    """Fit on the first `share` of the records, judge on the rest in order, learning only offsets and spreads on the way, as a
    serving process does. None where there is too little to learn from."""
    first = np.arange(len(records)) < int(share * len(records))
    if first.sum() < _FEWEST or (~first).sum() < _FEWEST:
        return None
    predictor = Predictor(interval=INTERVAL)
    endpoints = np.array([predictor.endpoint(name) for name in records.endpoint.tolist()], dtype=np.intp)
    rows = np.zeros((len(records), WIDTH))
    rows[:, TIME], rows[:, ENDPOINT], rows[:, CENSORED] = records.time_s, endpoints, records.censored
    rows[:, list(OBSERVED.values())] = np.nan
    rows[:, OBSERVED[records.target]] = records.observed_ms
    rows[:, FIRST_FEATURE:] = records.features
    trainer = Trainer(settings or TrainerSettings(max_age_s=np.inf))
    trainer.add(rows[first], float(records.time_s[first][-1]))
    snapshot = trainer.train(float(records.time_s[first][-1])).snapshot
    if snapshot is None or records.target not in snapshot.targets:
        return None
    predictor.publish(snapshot)
    judged = records.where(~first & ~records.censored)
    said = np.full((len(judged), 3), np.nan)
    places = np.flatnonzero(~first & ~records.censored)
    for i, place in enumerate(places.tolist()):
        prediction = predictor.predict(records.features[place : place + 1], endpoints[place : place + 1])
        estimate = getattr(prediction, records.target)
        said[i] = estimate.ms[0], estimate.low_ms[0], estimate.high_ms[0]
        observed_ms = float(records.observed_ms[place])
        if records.target == "ttft":
            predictor.observe(prediction.keep(0), ttft_ms=observed_ms)
        else:
            predictor.observe(prediction.keep(0), tpot_ms=observed_ms)
    line = _line(records.where(first & ~records.censored))
    again = replace(judged, predicted_ms=said[:, 0], low_ms=said[:, 1], high_ms=said[:, 2])
    return _evaluate(again, line)


def _evaluate(records: Records, line: Floats) -> Evaluation:
    load = load_of(records.features)
    edges = np.quantile(load, np.linspace(0, 1, _DECILES + 1))
    decile = np.clip(np.searchsorted(edges, load, side="right") - 1, 0, _DECILES - 1)
    by_load = [
        Part(f"{edges[d]:.0f} to {edges[d + 1]:.0f}", quality(records.where(decile == d), line))
        for d in range(_DECILES)
        if (decile == d).any()
    ]
    names = sorted(set(records.endpoint.tolist()))
    by_endpoint = [Part(name, quality(records.where(records.endpoint == name), line)) for name in names]
    windows = []
    for part in np.array_split(np.arange(len(records)), max(1, min(_WINDOWS, len(records) // _FEWEST))):
        some = records.where(np.isin(np.arange(len(records)), part))
        found = quality(some, line)
        windows.append((float(some.time_s[-1] - records.time_s[0]), found.coverage, found.median_error))
    return Evaluation(
        records.target, records, quality(records, line), tuple(by_load), tuple(by_endpoint), tuple(windows)
    )


def quality(records: Records, line: Floats) -> Quality:
    """`line`: what `_line` made."""
    if not len(records):
        return Quality(0, *[float("nan")] * 6)
    error = np.abs(records.observed_ms - records.predicted_ms) / records.observed_ms
    inside = (records.low_ms <= records.observed_ms) & (records.observed_ms <= records.high_ms)
    with_interval = np.isfinite(records.low_ms)
    count = int(with_interval.sum())
    coverage = float(inside[with_interval].mean()) if count else float("nan")
    drawn = _terms(records.features) @ line
    return Quality(
        len(records),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(np.median(records.predicted_ms / records.observed_ms) - 1),
        coverage,
        float(1.96 * np.sqrt(max(coverage * (1 - coverage), 1e-9) / count)) if count else float("nan"),
        float(np.median(np.abs(records.observed_ms - drawn) / records.observed_ms)),
    )


def _terms(features: Floats) -> Floats:
    return np.column_stack((np.ones(len(features)), load_of(features)))


def _line(records: Records) -> Floats:
    """Least squares on relative errors."""
    if not len(records):
        return np.zeros(2)
    weights = 1 / records.observed_ms
    return np.asarray(
        np.linalg.lstsq(_terms(records.features) * weights[:, None], np.ones(len(records)), rcond=None)[0],
        dtype=np.float64,
    )
