"""expected-cost-scorer: the endpoint where a request costs everybody least time is best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_REQUESTS,
    LATENCY_PREDICTION,
    PREFILL_BACKLOG,
    WAITING_REQUESTS,
    Candidates,
    Floats,
    Handle,
    LatencyPrediction,
    PrefillBacklog,
    Request,
    Rows,
    Scorer,
    data_key,
)

# Below about this much differences between endpoints matter less than whatever other scorers look at.
_HARDLY_ANY_S: Final = 0.1


class ExpectedCostScorer(Scorer):
    """(least cost + 0.1 s) / (cost + 0.1 s), so that twice the cost of the best is about half its score.

    Cost in seconds: (backlog + uncached) / rate + uncached / mean rate * (`cacheFillWeight` + `stallWeight` * n) +
    `requestCostMs` * n, with the prompt's uncached tokens and n requests in flight, whoever sent them. The first term is the
    time until the first token, and the latency predictor's where one is configured and has learnt. `cacheFillWeight` is the
    price of filling a cache with what another endpoint holds already, `stallWeight` how much of the reading each answer in
    progress is held up by, `requestCostMs` what one answer more costs the others. What others pay is counted at the
    candidates' mean rate: at its own, a slow endpoint would be left idle. Reads in_flight_requests and the request's
    PrefillBacklog. An endpoint whose load is not known (waiting_requests) scores 0, unless that of none is.
    """

    type = "expected-cost-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        cache_fill_weight: Annotated[float, msgspec.Meta(ge=0)] = 2.0
        stall_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.2
        request_cost_ms: Annotated[float, msgspec.Meta(ge=0)] = 10.0
        prefill_backlog_producer_name: str = ""
        latency_prediction_info_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._backlog_key = data_key(PREFILL_BACKLOG, params.prefill_backlog_producer_name)
        self._prediction_key = data_key(LATENCY_PREDICTION, params.latency_prediction_info_producer_name)
        self._fill_weight = params.cache_fill_weight
        self._stall_weight = params.stall_weight
        self._request_cost_s = params.request_cost_ms / 1000.0

    def consumes(self) -> Sequence[str]:
        return (self._backlog_key,)

    def consumes_if_published(self) -> Sequence[str]:
        return (self._prediction_key,)

    def score(self, request: Request, candidates: Candidates) -> Floats:
        rows, columns = candidates.rows, candidates.fleet.columns
        in_flight = columns[IN_FLIGHT_REQUESTS][rows]
        backlog: PrefillBacklog | None = request.data.get(self._backlog_key)
        if backlog is not None and backlog.strangers is not None:
            in_flight += backlog.strangers[rows]
        cost_s: Floats = in_flight * self._request_cost_s + _HARDLY_ANY_S
        if backlog is not None and len(rows):
            cost_s += self._reading_s(request, backlog, rows, in_flight)
        waiting = columns[WAITING_REQUESTS][rows]
        # argmax hands a NaN through, in a fraction of the time that looking for one takes.
        if len(rows) and not waiting.item(waiting.argmax()) < np.inf:
            unknown = np.isnan(waiting)
            if not unknown.all():
                cost_s[unknown] = np.inf
        return _shares_of_least(cost_s)

    def _reading_s(self, request: Request, backlog: PrefillBacklog, rows: Rows, in_flight: Floats) -> Floats:
        """Time until the first token, and what reading this prompt costs others."""
        tokens, uncached, rate = backlog.tokens[rows], backlog.uncached_tokens[rows], backlog.rate[rows]
        first_token_s: Floats = (tokens + uncached) / rate
        prediction: LatencyPrediction | None = request.data.get(self._prediction_key)
        if prediction is not None:
            predicted_s = prediction.ttft_ms[rows] / 1000.0
            first_token_s = np.where(np.isfinite(predicted_s), predicted_s, first_token_s)
        price = (in_flight * self._stall_weight + self._fill_weight) / (rate.sum() / len(rows))
        cost_s: Floats = first_token_s + price * uncached
        return cost_s


def _shares_of_least(cost: Floats) -> Floats:
    """least / cost; 0 where the cost makes no sense."""
    if not len(cost):
        return cost
    least = cost.item(cost.argmin())
    if 0.0 < least < np.inf and cost.item(cost.argmax()) < np.inf:
        shares: Floats = least / cost
        return shares
    usable = (cost > 0.0) & (cost < np.inf)
    shares = np.zeros(len(cost))
    if usable.any():
        shares[usable] = cost[usable].min() / cost[usable]
    return shares
