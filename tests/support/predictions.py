"""Latency predictions for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import msgspec
import numpy as np

from epp.api import (
    LATENCY_PREDICTION,
    Candidates,
    DataProducer,
    Floats,
    LatencyPrediction,
    Request,
    data_key,
    headers,
)
from tests.support.scheduling import make_request


def prediction(
    ttft_ms: Sequence[float],
    tpot_ms: Sequence[float] | None = None,
    *,
    ttft_slo_ms: float = inf,
    tpot_slo_ms: float = inf,
    tpot_budget_ms: Sequence[float] | None = None,
    spread: float = 0.2,
) -> LatencyPrediction:
    """One value per endpoint. Nine of ten lie within `spread` of the median; without `tpot_ms` none is predicted."""
    ttft = np.array(ttft_ms, dtype=np.float64)
    tpot = np.full(len(ttft), nan) if tpot_ms is None else np.array(tpot_ms, dtype=np.float64)
    budget: Floats = np.full(len(ttft), tpot_slo_ms) if tpot_budget_ms is None else np.array(tpot_budget_ms)
    levels = [of * (1 + side * spread) for of in (ttft, tpot) for side in (0, -1, 1)]
    return LatencyPrediction(np.array(levels), budget, ttft_slo_ms, tpot_slo_ms)


def predicted(told: LatencyPrediction | None, *, priority: int = 0) -> Request:
    """A request for which the default producer has published `told`."""
    request = make_request()
    request.priority = priority
    if told is not None:
        request.data[data_key(LATENCY_PREDICTION)] = told
    return request


class ToldPredictions(DataProducer):
    """Publishes what its parameters say, by `ip:port`, in place of a predictor that has learned; nothing of other endpoints."""

    type = "predicted-latency-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        ttft_ms: dict[str, float] = {}
        tpot_ms: dict[str, float] = {}
        slo_buffer_factor: float = 1.0

    def produces(self) -> Sequence[str]:
        return (data_key(LATENCY_PREDICTION, self.name),)

    def produce(self, request: Request, candidates: Candidates) -> None:
        ttft, tpot = np.full((2, self.handle.fleet.capacity), nan)
        for endpoint in candidates:
            ttft[endpoint.row] = self.params.ttft_ms.get(endpoint.host_port, nan)
            tpot[endpoint.row] = self.params.tpot_ms.get(endpoint.host_port, nan)
        told = prediction(
            ttft.tolist(),
            tpot.tolist(),
            ttft_slo_ms=float(headers.first_of(request.headers, headers.SLO_TTFT_MS) or request.objective_slo.ttft_ms),
            tpot_slo_ms=float(headers.first_of(request.headers, headers.SLO_TPOT_MS) or request.objective_slo.tpot_ms),
        )
        request.data[data_key(LATENCY_PREDICTION, self.name)] = told
