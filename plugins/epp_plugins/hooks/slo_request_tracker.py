"""slo-request-tracker: the older name for measuring requests; it brings the producer of predictions, which does so."""

from __future__ import annotations

from collections.abc import Sequence

from epp.api import LATENCY_PREDICTION, PreRequest, Request, SchedulingResult, data_key


class SloRequestTracker(PreRequest):
    """Deprecated: use "predicted-latency-producer". Makes sure that it is there; it measures requests and learns from them."""

    type = "slo-request-tracker"

    def consumes(self) -> Sequence[str]:
        return (data_key(LATENCY_PREDICTION),)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        """Nothing: the producer begins to measure here."""
