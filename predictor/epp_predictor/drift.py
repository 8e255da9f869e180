"""Whether the world has moved away from a model: two alarms on what is observed.

Page-Hinkley adds up how far the log ratios lie to one side of zero, less a slack; a sum above the threshold is a shift.
Coverage is the share of the newest observations that lay within their predicted 90 % interval; far under that the
spread has changed.
"""

from __future__ import annotations

from collections import deque
from typing import Final

INTERVAL: Final = 0.9
"""The interval whose coverage is watched."""
_LEAST_COVERAGE: Final = INTERVAL - 0.07
_MOST_STEP: Final = 1.0


class PageHinkley:
    """Two-sided. `slack`: a mean shift under it is never told. `threshold`: with noise of 0.15, a shift of 0.3 is told
    after about 20 observations, and noise alone hardly ever."""

    def __init__(self, *, slack: float = 0.05, threshold: float = 5.0) -> None:
        self._slack = slack
        self._threshold = threshold
        self._above = self._below = 0.0

    def add(self, value: float) -> None:
        value = min(max(value, -_MOST_STEP), _MOST_STEP)
        self._above = max(0.0, self._above + value - self._slack)
        self._below = max(0.0, self._below - value - self._slack)

    @property
    def is_shifted(self) -> bool:
        return max(self._above, self._below) > self._threshold

    def reset(self) -> None:
        self._above = self._below = 0.0


class Drift:
    """Both alarms for one target."""

    def __init__(self, *, window: int = 200) -> None:
        self._shift = PageHinkley()
        self._held: deque[bool] = deque(maxlen=window)

    def add(self, log_ratio: float, was_within: bool) -> None:
        """`log_ratio`: log(observed / base of the model); `was_within`: observed within the interval predicted
        before."""
        self._shift.add(log_ratio)
        self._held.append(was_within)

    @property
    def reason(self) -> str:
        """`shift`, `coverage`, or empty."""
        if self._shift.is_shifted:
            return "shift"
        full = len(self._held) == self._held.maxlen
        return "coverage" if full and sum(self._held) < _LEAST_COVERAGE * len(self._held) else ""

    def reset(self) -> None:
        self._shift.reset()
        self._held.clear()
