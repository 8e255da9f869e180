"""What a latency prediction leaves of a request's SLOs on each candidate. Only here is said what an unknown latency means.

An SLO that was not asked for is infinite, and so is its headroom: nothing can miss it. A latency that is predicted for nobody
(no server streams, say) is left out of account; one that is predicted for others but not for this candidate counts as missed,
so that a gap in the predictions attracts no request.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from epp.api import Candidates, Floats, LatencyPrediction, Mask

_EQUAL: Final = 1e-9  # a narrower range of headrooms is none


class Headroom(msgspec.Struct, frozen=True):
    """One value per candidate, same order. `ttft_ms` and `tpot_ms` are inf without an SLO, -inf where nothing is predicted."""

    ttft_ms: Floats
    tpot_ms: Floats
    predicted_ttft_ms: Floats  # 0 for everybody where nobody's is known
    predicted_tpot_ms: Floats
    predicted: Mask

    @property
    def met(self) -> Mask:
        """Who is predicted to meet every SLO."""
        met: Mask = self.predicted & (self.ttft_ms >= 0.0) & (self.tpot_ms >= 0.0)
        return met

    @property
    def asked(self) -> bool:
        """Whether there is any SLO to miss: the request's, or that of a request which runs on a candidate."""
        return bool(np.isfinite(self.ttft_ms).any() or np.isfinite(self.tpot_ms).any())


def headroom_of(prediction: LatencyPrediction | None, candidates: Candidates) -> Headroom | None:
    """None where no candidate has a prediction of all that is predicted."""
    if prediction is None:
        return None
    rows = candidates.rows
    ttft_ms, tpot_ms = prediction.ttft_ms[rows], prediction.tpot_ms[rows]
    # Nearly always all are known. NaN makes a sum NaN, which does not equal itself; looking for NaN costs three times as much.
    if len(rows) and (sums := float(ttft_ms.sum()) + float(tpot_ms.sum())) == sums:
        everyone = np.ones(len(rows), dtype=np.bool_)
        ttft_left_ms: Floats = prediction.ttft_slo_ms - ttft_ms
        tpot_left_ms: Floats = prediction.tpot_budget_ms[rows] - tpot_ms
        return Headroom(ttft_left_ms, tpot_left_ms, ttft_ms, tpot_ms, everyone)
    ttft_known, tpot_known = ~np.isnan(ttft_ms), ~np.isnan(tpot_ms)
    if not (ttft_known.any() or tpot_known.any()):
        return None
    ttft = _target(ttft_ms, ttft_known, np.full(len(rows), prediction.ttft_slo_ms))
    tpot = _target(tpot_ms, tpot_known, prediction.tpot_budget_ms[rows])
    predicted = ttft[2] & tpot[2]
    return Headroom(ttft[0], tpot[0], ttft[1], tpot[1], predicted) if predicted.any() else None


def from_0_to_1(headroom_ms: Floats, predicted_ms: Floats, *, most: bool) -> Floats | None:
    """How far each is from its SLO, 0 the nearest; None where all are equally far.

    Where there is no SLO to be near to, by prediction: the lower one is what the strategy prefers.
    """
    by_slo = np.isfinite(headroom_ms).all()
    values = np.abs(headroom_ms) if by_slo else predicted_ms
    low = values.min()
    span = values.max() - low
    if not span > _EQUAL:
        return None
    spread: Floats = (values - low) / span
    return spread if by_slo or not most else 1.0 - spread


def _target(predicted_ms: Floats, known: Mask, slo_ms: Floats) -> tuple[Floats, Floats, Mask]:
    """Headroom, prediction and whether there is one."""
    if not known.any():
        return np.full(len(known), np.inf), np.zeros(len(known)), np.ones(len(known), dtype=np.bool_)
    return np.where(known, slo_ms - predicted_ms, -np.inf), predicted_ms, known
