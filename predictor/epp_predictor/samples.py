"""Finished requests as rows of one float64 matrix, and which of them can be learnt from.

A row is what shared memory and the training process pass around: when, where, what was observed, and the features as
they were when the decision was made.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COUNT, MOST, Floats

TIME: Final = 0
"""Column: wall-clock time of the observation, seconds since the epoch."""
ENDPOINT: Final = 1
OBSERVED: Final = {"ttft": 2, "tpot": 3}
"""Columns: ms; NaN where it was not observed."""
CENSORED: Final = 4
"""Column: 1 when the request was given up before the end, so that its latencies are lower bounds."""
FIRST_FEATURE: Final = 5
WIDTH: Final = FIRST_FEATURE + COUNT

LONGEST_MS: Final = {"ttft": 3_600_000.0, "tpot": 600_000.0}
"""Longer than this is no latency but a fault in measuring."""
SHORTEST_MS: Final = 0.001
MOST_ENDPOINTS: Final = 1 << 16
"""Numbers of endpoints are under this: tables have a row for each."""


def row(
    features: Floats, endpoint: int, *, ttft_ms: float, tpot_ms: float, time_s: float, is_censored: bool = False
) -> Floats:
    """One finished request. `features`: one value per feature; latencies NaN where they were not observed."""
    made = np.empty(WIDTH)
    made[:FIRST_FEATURE] = time_s, endpoint, ttft_ms, tpot_ms, is_censored
    made[FIRST_FEATURE:] = features
    return made


def is_latency(value_ms: float, target: str) -> bool:
    """A number that can be a latency of this target. False for NaN."""
    return SHORTEST_MS <= value_ms <= LONGEST_MS[target]


def sound(rows: Floats) -> NDArray[np.bool_]:
    """Which rows can be trusted as rows: times, endpoints and features finite and within range, at least one
    latency."""
    features = rows[:, FIRST_FEATURE:]
    with np.errstate(invalid="ignore"):
        in_range = ((features >= 0) & (features <= MOST)).all(axis=1)
        known = (rows[:, ENDPOINT] >= 0) & (rows[:, ENDPOINT] < MOST_ENDPOINTS) & np.isfinite(rows[:, TIME])
    return in_range & known & (observed(rows, "ttft") | observed(rows, "tpot"))


def observed(rows: Floats, target: str) -> NDArray[np.bool_]:
    """Which rows have a latency of this target that can be one."""
    values = rows[:, OBSERVED[target]]
    with np.errstate(invalid="ignore"):
        return (values >= SHORTEST_MS) & (values <= LONGEST_MS[target])
