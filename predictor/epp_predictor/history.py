"""The newest observations with what had been predicted for them, for people: kept in memory, handed out as CSV. No I/O.

Written by the thread that predicts. A line is one observed latency: when, where, which, how long, the median and the
interval that had been predicted, whether it is only a lower bound, and the features at the decision.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COUNT, NAMES, Floats, clean
from epp_predictor.predictor import Decision
from epp_predictor.prior import TARGETS
from epp_predictor.samples import LONGEST_MS, SHORTEST_MS, is_latency

CAPACITY: Final = 8192
_TOLD: Final = ("time_s", "endpoint", "target", "observed_ms", "predicted_ms", "low_ms", "high_ms", "censored")
HEAD: Final = (*_TOLD, *NAMES)
_LINES_AT_ONCE: Final = 64  # about a millisecond's worth


class BadRecords(ValueError):
    """A file that holds no such lines. The message says where and why."""


class History:
    """A ring: the newest `capacity` observations."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._values = np.zeros((capacity, 6))  # time, target, observed, predicted, low, high
        self._features = np.zeros((capacity, COUNT), dtype=np.float32)
        self._endpoints: list[str] = [""] * capacity
        self._censored = np.zeros(capacity, dtype=bool)
        self._written = 0

    def __len__(self) -> int:
        return min(self._written, len(self._values))

    def add(
        self, decision: Decision, target: str, observed_ms: float, *, endpoint: str, time_s: float, is_censored: bool
    ) -> None:
        """`time_s`: wall-clock time, seconds since the epoch."""
        at = self._written % len(self._values)
        if target == "ttft":
            said = decision.ttft_ms, decision.ttft_low_ms, decision.ttft_high_ms
        else:
            said = decision.tpot_ms, decision.tpot_low_ms, decision.tpot_high_ms
        self._values[at] = time_s, TARGETS.index(target), observed_ms, *said
        self._features[at] = decision.features
        self._endpoints[at] = endpoint
        self._censored[at] = is_censored
        self._written += 1

    def csv(self) -> Iterator[bytes]:
        """A header and a line for each observation, the oldest first, in pieces. What comes in between may be missing."""
        yield (",".join(HEAD) + "\n").encode()
        end, start = self._written, self._written - len(self)
        for first in range(start, end, _LINES_AT_ONCE):
            oldest = self._written - len(self)  # what was overwritten since is no longer there to be told
            lines = range(max(first, oldest), min(first + _LINES_AT_ONCE, end))
            yield "".join([self._line(number % len(self._values)) for number in lines]).encode()

    def _line(self, at: int) -> str:
        time_s, target, observed, predicted, low, high = self._values[at].tolist()
        # Quotes around the name, in which there can be none.
        endpoint = self._endpoints[at].replace('"', "'")
        told = f'{time_s:.3f},"{endpoint}",{TARGETS[int(target)]},{observed:.6g},{predicted:.6g},{low:.6g},{high:.6g}'
        features = ",".join([f"{value:.6g}" for value in self._features[at].tolist()])
        return f"{told},{int(self._censored[at])},{features}\n"


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Observations of one target, the oldest first; arrays of equal length."""

    target: str
    time_s: Floats
    endpoint: NDArray[np.str_]
    observed_ms: Floats
    predicted_ms: Floats
    """NaN where nothing was predicted; so are the two below."""
    low_ms: Floats
    high_ms: Floats
    censored: NDArray[np.bool_]
    features: Floats
    """A row per observation, a column per feature."""

    def __len__(self) -> int:
        return len(self.time_s)

    def where(self, mask: NDArray[np.bool_]) -> Records:
        """Those that `mask` chooses."""
        return Records(
            self.target,
            self.time_s[mask],
            self.endpoint[mask],
            self.observed_ms[mask],
            self.predicted_ms[mask],
            self.low_ms[mask],
            self.high_ms[mask],
            self.censored[mask],
            self.features[mask],
        )


def read(lines: Iterable[str]) -> dict[str, Records]:
    """By target, of what `History.csv` wrote; columns may stand in any order. Features that are missing or no numbers are 0,
    others within their range.

    Raises BadRecords.
    """
    rows = _rows(lines)
    head = next(rows, None)
    if head is None or not set(_TOLD) <= set(head):
        missing = ", ".join(sorted(set(_TOLD) - set(head or ())))
        raise BadRecords(f"line 1: expected a header with {', '.join(_TOLD)}; missing: {missing}")
    place = {name: number for number, name in enumerate(head)}
    found: dict[str, list[tuple[str, list[float]]]] = {target: [] for target in TARGETS}
    number = _reader(place)
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(head):
            raise BadRecords(f"line {line}: expected {len(head)} fields, got {len(row)}")
        target = row[place["target"]]
        if target not in found:
            raise BadRecords(f"line {line}: target: expected one of {', '.join(TARGETS)}, got {target!r}")
        try:
            found[target].append((row[place["endpoint"]], number(row, target)))
        except ValueError as error:
            raise BadRecords(f"line {line}: {error}") from None
    return {target: _records(target, rows_of) for target, rows_of in found.items()}


def _rows(lines: Iterable[str]) -> Iterator[list[str]]:
    rows = csv.reader(lines)
    try:
        yield from rows
    except csv.Error as error:
        raise BadRecords(f"line {rows.line_num}: {error}") from None


_NUMBERS: Final = ("time_s", "observed_ms", "predicted_ms", "low_ms", "high_ms", "censored")


def _reader(place: dict[str, int]) -> Callable[[list[str], str], list[float]]:
    told = [place[name] for name in _NUMBERS]
    features = [place.get(name) for name in NAMES]

    def numbers(row: list[str], target: str) -> list[float]:
        values = [float(row[at]) for at in told]
        time_s, observed_ms, predicted_ms = values[:3]
        if not np.isfinite(time_s):
            raise ValueError(f"time_s: expected a finite number, got {time_s:g}")
        if not is_latency(observed_ms, target):
            range_ms = f"{SHORTEST_MS:g} to {LONGEST_MS[target]:g}"
            raise ValueError(f"observed_ms: expected a number from {range_ms}, got {observed_ms:g}")
        if not (0 < predicted_ms < np.inf or np.isnan(predicted_ms)):
            raise ValueError(f"predicted_ms: expected a number above 0, or nan, got {predicted_ms:g}")
        return values + [0.0 if at is None else float(row[at]) for at in features]

    return numbers


def _records(target: str, rows: list[tuple[str, list[float]]]) -> Records:
    values = np.array([numbers for _, numbers in rows]).reshape(len(rows), len(_NUMBERS) + COUNT)
    order = np.argsort(values[:, 0], kind="stable")
    values = values[order]
    endpoints = np.array([name for name, _ in rows], dtype=np.str_)[order] if rows else np.zeros(0, dtype=np.str_)
    return Records(
        target,
        values[:, 0],
        endpoints,
        values[:, 1],
        values[:, 2],
        values[:, 3],
        values[:, 4],
        values[:, 5] != 0,
        clean(values[:, len(_NUMBERS) :]).T,
    )
