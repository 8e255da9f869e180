"""latency-slo-admitter: refuse at once what no endpoint could serve in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_REQUESTS,
    LATENCY_PREDICTION,
    RUNNING_REQUESTS,
    Admitter,
    Candidates,
    Code,
    Floats,
    Handle,
    LatencyPrediction,
    Mask,
    Request,
    RequestError,
    data_key,
    headers,
)

_REASON: Final = "rejected-slo-unattainable"


class LatencySloAdmitter(Admitter):
    """Refuses a request with an SLO when the low end of the predicted interval misses it on every endpoint.

    That is status 429 with the reason `rejected-slo-unattainable` and, as Retry-After, how long it takes until the work ahead
    has drained so far that the first token could be in time (1 s to `maxRetryAfterSeconds`). `applyTo: sheddable` spares
    requests of priority 0 and more. An endpoint without a prediction may be in time, and so, with `admitToIdle`, may an idle
    one. The Go EPP's latency-slo-admitter goes by the prediction itself, admits where any KV cache is nearly empty, and
    refuses with status 500.
    """

    type = "latency-slo-admitter"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        latency_prediction_info_producer_name: str = ""
        apply_to: Literal["sheddable", "all"] = "sheddable"
        admit_to_idle: bool = True
        max_retry_after_seconds: Annotated[int, msgspec.Meta(ge=1)] = 60

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(LATENCY_PREDICTION, params.latency_prediction_info_producer_name)
        self._spares = params.apply_to == "sheddable"

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def admit(self, request: Request, candidates: Candidates) -> None:
        if self._spares and request.priority >= 0:
            return
        prediction: LatencyPrediction | None = request.data.get(self._key)
        if prediction is None or not prediction.has_slo or not len(candidates):
            return
        ttft_ms = prediction.ttft_low_ms[candidates.rows]
        tpot_ms = prediction.tpot_low_ms[candidates.rows]
        # NaN compares false: what is unknown misses nothing.
        misses: Mask = (ttft_ms > prediction.ttft_slo_ms) | (tpot_ms > prediction.tpot_slo_ms)
        if not misses.all() or (self.params.admit_to_idle and _any_idle(candidates)):
            return
        raise RequestError(
            Code.RESOURCE_EXHAUSTED,
            f"no endpoint can meet the latency asked for: {_nearest(prediction, ttft_ms, tpot_ms)}",
            headers={headers.DROPPED_REASON: _REASON, "retry-after": self._retry_after(prediction, ttft_ms, tpot_ms)},
        )

    def _retry_after(self, prediction: LatencyPrediction, ttft_ms: Floats, tpot_ms: Floats) -> str:
        """Work ahead drains by a millisecond a millisecond. What a token takes is no question of waiting."""
        late_ms = np.fmax(ttft_ms - prediction.ttft_slo_ms, 0.0)
        patient = late_ms[~(tpot_ms > prediction.tpot_slo_ms)]
        seconds = math.ceil(float(patient.min()) / 1000.0) if len(patient) else 1
        return str(min(max(seconds, 1), self.params.max_retry_after_seconds))


def _any_idle(candidates: Candidates) -> bool:
    ours = candidates.column(IN_FLIGHT_REQUESTS) == 0
    return bool((ours & ~(candidates.column(RUNNING_REQUESTS) > 0)).any())


def _nearest(prediction: LatencyPrediction, ttft_ms: Floats, tpot_ms: Floats) -> str:
    """`ttft 200 ms (at best 850 ms)`, of each SLO that some endpoint is known to miss."""
    told = [
        f"{name} {slo_ms:g} ms (at best {np.nanmin(low_ms):.4g} ms)"
        for name, slo_ms, low_ms in (
            ("ttft", prediction.ttft_slo_ms, ttft_ms),
            ("tpot", prediction.tpot_slo_ms, tpot_ms),
        )
        if (low_ms > slo_ms).any()
    ]
    return ", ".join(told)
