"""How right predictions are, and what a pick by them costs against the best there was."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import Final

import numpy as np

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_TOKENS,
    LATENCY_PREDICTION,
    LATENCY_RECORD,
    PREFILL_BACKLOG,
    Floats,
    InFlightLoad,
    LatencyPrediction,
    LatencyRecord,
    PrefillBacklog,
    Request,
    data_key,
)
from tests.bench.routing.fleet import Server
from tests.bench.routing.truth import time_to_first_token_s

_EVERY: Final = 20  # decisions; the truth about one takes as long as twenty decisions


class Judge:
    """Coverage is the share of latencies within the 90 % interval that was predicted for the chosen server. Regret is the true
    time to the first token where a rule would have sent the request, less the best one's, on the same decisions for each rule.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._within: dict[str, list[bool]] = {"ttft": [], "tpot": []}
        self._errors: dict[str, list[float]] = {"ttft": [], "tpot": []}
        self._regrets_s: dict[str, list[float]] = {"predicted": [], "fluid": [], "tokens": []}

    def picked(self, number: int, prompt: bytes, request: Request, now_s: float) -> None:
        """Before the request is with its server."""
        prediction: LatencyPrediction | None = request.data.get(data_key(LATENCY_PREDICTION))
        if number % _EVERY or prediction is None or request.candidates is None or request.result is None:
            return
        rows, columns = request.candidates.rows, request.candidates.fleet.columns
        truth_s = np.array([time_to_first_token_s(server, prompt, now_s) for server in self._servers])
        load: InFlightLoad = request.data[data_key(IN_FLIGHT_LOAD)]
        in_flight = columns[IN_FLIGHT_TOKENS].copy()
        in_flight[request.result.target.row] -= load.uncached_tokens[request.result.target.row]
        backlog: PrefillBacklog = request.data[data_key(PREFILL_BACKLOG)]
        self._regret("predicted", prediction.ttft_ms[rows], truth_s)
        self._regret("fluid", ((backlog.tokens + backlog.uncached_tokens) / backlog.rate)[rows], truth_s)
        self._regret("tokens", (in_flight + load.uncached_tokens)[rows], truth_s)

    def _regret(self, rule: str, values: Floats, truth_s: Floats) -> None:
        self._regrets_s[rule].append(float(truth_s[int(values.argmin())] - truth_s.min()))

    def ended(self, request: Request) -> None:
        """When all of its response has come."""
        record: LatencyRecord | None = request.data.get(data_key(LATENCY_RECORD))
        if record is None:
            return
        self._compare(
            "ttft",
            record.ttft_ms,
            record.predicted_ttft_low_ms,
            record.predicted_ttft_ms,
            record.predicted_ttft_high_ms,
        )
        tpot_ms = record.average_tpot_ms
        self._compare(
            "tpot",
            nan if tpot_ms is None else tpot_ms,
            record.predicted_tpot_low_ms,
            record.predicted_tpot_ms,
            record.predicted_tpot_high_ms,
        )

    def _compare(self, target: str, value: float, low: float, middle: float, high: float) -> None:
        if not isnan(value) and not isnan(middle):
            self._within[target].append(low <= value <= high)
            self._errors[target].append(abs(middle / value - 1.0))

    @property
    def numbers(self) -> dict[str, float]:
        """Shares, and ms."""
        found = {f"coverage_{target}": float(np.mean(w)) for target, w in self._within.items() if w}
        found |= {f"error_{target}": float(np.median(e)) for target, e in self._errors.items() if e}
        return found | {f"regret_{rule}": float(np.mean(r)) * 1000 for rule, r in self._regrets_s.items() if r}
