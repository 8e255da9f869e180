"""How right a predictor of cached tokens is, endpoint by endpoint, and what follows from it. No I/O, no clock; knows rows.

A predictor (of whatever kind) says at the pick how much of a prompt an endpoint has cached; the engine's answer says how much
it had. The rules, each an `Advice`:

- Three predictions in a row of which the engine had nothing at all: what is believed of it is worth nothing. Purge.
- Half of at least 16 predictions too high: it keeps less than is believed. Shrink.
- 32 right ones in a row after that: it may have been too much. Grow.
- Half of at least 16 answers higher than predicted: it knows more than is sent through here. Warn.

Answers where nothing was predicted and nothing was cached say nothing and do not count.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from epp.api import Floats

_RECENT: Final = 32  # answers that make the confidence
_IN_A_ROW: Final = 3
_ENOUGH: Final = 16
_GROW_AFTER: Final = 32


class Verdict(enum.Enum):
    """A prediction beside the truth. The value is the word in metrics."""

    RIGHT = "right"
    OVER = "over"
    UNDER = "under"
    TRIVIAL = "trivial"  # nothing predicted, nothing cached


def judge(predicted: float, cached: float, tolerance: float) -> Verdict:
    """Tokens, as the engine counts them; `tolerance` is how far prediction and truth may be apart."""
    if predicted > cached + tolerance:
        return Verdict.OVER
    if cached > predicted + tolerance:
        return Verdict.UNDER
    return Verdict.TRIVIAL if predicted <= tolerance and cached <= tolerance else Verdict.RIGHT


class Action(enum.Enum):
    """What to do about what is believed of the endpoint."""

    PURGE = "purge"
    SHRINK = "shrink"
    GROW = "grow"
    WARN = "warn"


class Cause(enum.Enum):
    """What is likely behind it, in words for the log."""

    RESET = "it has restarted or its cache was reset"
    OFF = "it caches no prefixes: prefix caching is off there, or its chat template begins with text that changes"
    MISMATCH = "equal bytes are not equal tokens there: its chat template or tokenizer adds text that changes"
    SMALLER = "its cache is smaller than it says, or others use it, too"
    UNSEEN = "it has cached what was not sent through here, or keeps more than it says"


class Advice(NamedTuple):
    """`news`: the operator has not been told of this cause yet."""

    action: Action
    cause: Cause | None = None
    news: bool = False


class Calibration:
    """One endpoint's. `limit` is what whoever follows the advice to shrink makes of it: most blocks to believe in, or None."""

    __slots__ = (
        "_over",
        "_purged",
        "_recent",
        "_recently_right",
        "_right",
        "_right_in_a_row",
        "_right_since_purge",
        "_told",
        "_under",
        "_wrong_in_a_row",
        "_zeros",
        "answers",
        "cause",
        "limit",
    )

    def __init__(self) -> None:
        self.answers = 0
        self.limit: int | None = None
        self.cause: Cause | None = None  # of the last advice that had one, until predictions are right again
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._recently_right = 0
        self._right_in_a_row = 0
        self._wrong_in_a_row = 0  # predictions of which the engine had nothing
        self._zeros = 0  # of those, the ones where it said exactly 0
        self._purged = False
        self._right_since_purge = False
        self._told: set[Cause] = set()
        self._right = self._over = self._under = 0  # since the last advice

    @property
    def confidence(self) -> float:
        """The share of the recent predictions that were right; NaN before the first."""
        return self._recently_right / len(self._recent) if self._recent else float("nan")

    def observe(self, verdict: Verdict, *, cached: float, nothing: bool) -> Advice | None:
        """Take in a verdict, what was cached, and whether that is within the tolerance of nothing."""
        self.answers += 1
        if verdict is Verdict.TRIVIAL:
            return None
        right = verdict is Verdict.RIGHT
        if len(self._recent) == _RECENT:
            self._recently_right -= self._recent[0]
        self._recent.append(right)
        self._recently_right += right
        if right:
            self._right += 1
            self._right_in_a_row += 1
            self._wrong_in_a_row = self._zeros = 0
            self._right_since_purge = True
            if self._right_in_a_row >= _GROW_AFTER:
                return self._grow()
            return None
        self._right_in_a_row = 0
        if verdict is Verdict.UNDER:
            self._under += 1
            return self._judge(self._under, Action.WARN, Cause.UNSEEN)
        self._over += 1
        if nothing:
            self._wrong_in_a_row += 1
            self._zeros += not cached
            if self._wrong_in_a_row >= _IN_A_ROW:
                return self._purge()
        else:
            self._wrong_in_a_row = self._zeros = 0
        # Where nothing is ever right, less of the same will not be either.
        return self._judge(self._over, Action.SHRINK, Cause.SMALLER if self._right else Cause.MISMATCH)

    def reset(self) -> Advice:
        """There is other evidence that the engine has lost what it had."""
        self._right_since_purge = True
        return self._purge()

    def _purge(self) -> Advice:
        if self._right_since_purge or not self._purged:
            cause = Cause.RESET
        else:
            cause = Cause.OFF if self._zeros >= _IN_A_ROW else Cause.MISMATCH
        self._purged, self._right_since_purge = True, False
        self._wrong_in_a_row = self._zeros = 0
        return self._advice(Action.PURGE, cause)

    def _judge(self, count: int, action: Action, cause: Cause) -> Advice | None:
        answers = self._right + self._over + self._under
        if answers < _ENOUGH or 2 * count < answers:
            return None
        return self._advice(action, cause)

    def _grow(self) -> Advice | None:
        self._right_in_a_row = 0
        self._right = self._over = self._under = 0
        self.cause = None
        self._told.clear()
        return None if self.limit is None else Advice(Action.GROW)

    def _advice(self, action: Action, cause: Cause) -> Advice:
        self._right = self._over = self._under = 0
        self.cause = cause
        news = cause is Cause.RESET or cause not in self._told  # an engine may restart more than once
        self._told.add(cause)
        return Advice(action, cause, news)


class Calibrations:
    """All endpoints' by row. `confidence` is a vector by row that is never changed, only replaced: it may be kept."""

    def __init__(self) -> None:
        self._rows: dict[int, Calibration] = {}
        self.confidence: Floats = np.full(0, np.nan)

    def of(self, row: int) -> Calibration | None:
        """None before the first answer."""
        return self._rows.get(row)

    def items(self) -> Iterable[tuple[int, Calibration]]:
        """Those of which there was an answer, with their rows."""
        return self._rows.items()

    def observe(self, row: int, verdict: Verdict, *, cached: float, nothing: bool) -> Advice | None:
        """Take in an answer of the endpoint in `row`: see `Calibration.observe`."""
        calibration = self._rows.get(row)
        if calibration is None:
            calibration = self._rows[row] = Calibration()
        advice = calibration.observe(verdict, cached=cached, nothing=nothing)
        confidence = calibration.confidence
        if row >= len(self.confidence) or self.confidence.item(row) != confidence:
            self._set(row, confidence)
        return advice

    def reset(self, row: int) -> Advice:
        """There is other evidence that the engine in `row` has lost what it had."""
        calibration = self._rows.get(row)
        if calibration is None:
            calibration = self._rows[row] = Calibration()
        return calibration.reset()

    def drop(self, row: int) -> None:
        """The endpoint is gone, or another one has its row."""
        if self._rows.pop(row, None) is not None:
            self._set(row, float("nan"))

    def fit(self, rows: int) -> None:
        """Make `confidence` at least `rows` long."""
        missing = rows - len(self.confidence)
        if missing > 0:
            self.confidence = np.concatenate([self.confidence, np.full(missing, np.nan)])

    def _set(self, row: int, confidence: float) -> None:
        self.fit(row + 1)
        self.confidence = self.confidence.copy()
        self.confidence[row] = confidence
