"""Conditional decode: a client that says `Prefer: if-available` wants an answer only where its prompt is cached already."""

from __future__ import annotations

from typing import Final

from epp.api import Code, PrefixMatch, Request, RequestError, SchedulingResult

_IF_AVAILABLE: Final = "if-available"


def check_preference(request: Request, result: SchedulingResult) -> None:
    """Raises RequestError (PRECONDITION_FAILED) when the request prefers so and the target holds none of its prompt.

    Any producer's word counts; the Go EPP asks the default one alone, and so refuses everything beside a precise index.
    """
    wishes = request.headers.get("prefer", "").split(",")
    if not any(wish.partition(";")[0].strip().lower() == _IF_AVAILABLE for wish in wishes):
        return
    row = result.target.row
    matches = (value for value in request.data.values() if isinstance(value, PrefixMatch))
    if not any(match.matched_blocks.item(row) > 0 for match in matches):
        raise RequestError(Code.PRECONDITION_FAILED, "no decode worker has the requested KV cache")
