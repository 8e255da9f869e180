"""Requests and picks for tests of scheduling plugins."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from epp.api import Fleet, Payload, ProfileResult, Prompt, Request, Response, SchedulingResult, Termination


def make_request(
    *prompts: bytes,
    model: str = "m",
    headers: Mapping[str, str] | None = None,
    cache_salt: str = "",
    max_output_tokens: int | None = None,
) -> Request:
    """A request as it is when producers see it: parsed, its model resolved."""
    request = Request("r", headers or {})
    request.model = model
    request.payload = Payload(
        model=model,
        prompts=tuple(Prompt(data) for data in prompts),
        cache_salt=cache_salt,
        max_output_tokens=max_output_tokens,
    )
    return request


def picked(fleet: Fleet, default: int, **others: int | None) -> SchedulingResult:
    """Profile `default` chose the endpoint in row `default`, the others theirs (None: found nothing)."""
    rows = {"default": default, **others}
    candidates = fleet.candidates()
    profiles: dict[str, ProfileResult | None] = {}
    for name, row in rows.items():
        endpoint = None if row is None else fleet.endpoints[row]
        profiles[name] = endpoint and ProfileResult((endpoint,), candidates, np.zeros(len(candidates)))
    return SchedulingResult(profiles, "default")


def ended(status: int = 200, termination: Termination = Termination.COMPLETE) -> Response:
    """A response that is over."""
    response = Response()
    response.status = status
    response.termination = termination
    return response
