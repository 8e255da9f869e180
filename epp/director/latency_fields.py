"""The latencies of one request, predicted and measured, for its client: in the `usage` of the response and as dynamic metadata.

Six fields under the names of the first SLO-aware Go EPP. What is not known is null. Only for those who ask.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from epp.api import LatencyRecord, Request
from epp.director import usage_fields

HEADER: Final = "x-llm-epp-latency"
METADATA_KEY: Final = "llm_epp_latency"  # in namespace envoy.lb


class LatencyFields(enum.Enum):
    """Whose responses get them."""

    ASKED = "asked"  # of requests with `x-llm-epp-latency: 1`
    ALWAYS = "always"
    NEVER = "never"


def record_for(request: Request, fields: LatencyFields) -> LatencyRecord | None:
    """The record whose latencies `request` is to be told; None where it is not, or where nothing is predicted or measured."""
    if fields is LatencyFields.NEVER:
        return None
    if fields is LatencyFields.ASKED and request.headers.get(HEADER) != "1":
        return None
    return next((data for data in request.data.values() if isinstance(data, LatencyRecord)), None)


def six_fields(record: LatencyRecord) -> dict[str, Any]:
    """As far as they are known now."""
    measured = [_rounded(ms) for ms in record.tpot_observations_ms]
    average_ms = record.average_tpot_ms
    predicted_ms = _rounded(record.predicted_tpot_ms)
    return {
        "ttft_ms": _rounded(record.ttft_ms),
        "predicted_ttft_ms": _rounded(record.predicted_ttft_ms),
        "tpot_observations_ms": measured,
        # One prediction is made for all tokens of a request.
        "predicted_tpot_observations_ms": [] if predicted_ms is None else [predicted_ms] * len(measured),
        "avg_tpot_ms": None if average_ms is None else _rounded(average_ms),
        "avg_predicted_tpot_ms": predicted_ms,
    }


def adder(record: LatencyRecord, *, events: bool) -> Callable[[bytes], bytes]:
    """A function that adds the fields to a whole JSON response, or to whole events."""
    add = usage_fields.in_events if events else usage_fields.in_document

    def replace(body: bytes) -> bytes:
        return add(body, lambda: msgspec.json.encode(six_fields(record))[1:-1])

    return replace


def _rounded(ms: float) -> float | None:
    return round(ms, 3) if math.isfinite(ms) else None
