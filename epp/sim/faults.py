"""What a simulated server can be told to do wrong, for every request or for one. No I/O.

Request headers (`x-sim-*`) override the server-wide setting for that request. Requests means the POST endpoints under /v1 and
/tokenize; /metrics and /health have faults of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypedDict

import msgspec

NonNegative = Annotated[int, msgspec.Meta(ge=0)]
ErrorStatus = Annotated[int, msgspec.Meta(ge=400, le=599)]
Status = Annotated[int, msgspec.Meta(ge=200, le=599)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None and False mean: behave. Chunks are SSE events; an answer that is no stream is cut in its middle by any count > 0."""

    delay_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Wait before the request is looked at."""
    error: ErrorStatus | None = None
    """Answer with this status and an error body."""
    hang: NonNegative | None = None
    """Go silent after this many chunks, 0 before the response headers, and keep the connection open."""
    drop: NonNegative | None = None
    """Close the connection after this many chunks, 0 before the response headers."""
    metrics_delay_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    metrics_hang: bool = False
    metrics_garbage: bool = False
    metrics_status: Status | None = None
    health_status: Status | None = None
    frozen: bool = False
    """The engine stands still: /health 200, /metrics 200 with the old values, requests hang (vLLM with a stopped engine)."""
    engine_dead: bool = False
    """The engine is gone: /health 503, requests 500, those in progress fail. Clearing it starts a fresh engine."""


class FaultChanges(TypedDict, total=False):
    """The fields of Faults, for keyword arguments."""

    delay_ms: float | None
    error: int | None
    hang: int | None
    drop: int | None
    metrics_delay_ms: float | None
    metrics_hang: bool
    metrics_garbage: bool
    metrics_status: int | None
    health_status: int | None
    frozen: bool
    engine_dead: bool


HEADERS = {"x-sim-delay-ms": "delay_ms", "x-sim-error": "error", "x-sim-hang": "hang", "x-sim-drop": "drop"}

GARBAGE_PAGE = (
    b'<html>502\n# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0",model_na\n'
    + bytes(range(256))
)
"""Neither a metrics page nor UTF-8."""


def changed(faults: Faults, changes: Mapping[str, object]) -> Faults:
    """The same faults with some fields set anew. ValueError (msgspec.ValidationError) names the field that is wrong."""
    fields = {name: getattr(faults, name) for name in Faults.__struct_fields__}
    return msgspec.convert({**fields, **changes}, Faults)


def for_request(faults: Faults, headers: Mapping[str, str]) -> Faults:
    """The faults that apply to one request. ValueError names the header that cannot be read."""
    changes: dict[str, float | int] = {}
    for header, field in HEADERS.items():
        text = headers.get(header)
        if text is None:
            continue
        # "x-sim-hang: true" reads well and means: at once.
        value = "0" if field in ("hang", "drop") and text.lower() in ("", "true") else text
        try:
            changes[field] = float(value) if field == "delay_ms" else int(value)
        except ValueError as error:
            raise ValueError(f"{header}: {text!r} is not a number") from error
    if not changes:
        return faults
    try:
        return changed(faults, changes)
    except msgspec.ValidationError as error:
        raise ValueError(f"{', '.join(h for h, f in HEADERS.items() if f in changes)}: {error}") from error
