"""Disaggregated serving: the headers that tell the proxy beside a decode server who prefills and who encodes."""

from __future__ import annotations

from epp.api import Request, SchedulingResult, headers


def set_stage_headers(request: Request, result: SchedulingResult, *, prefill: str, encode: str) -> None:
    """Name the first endpoint of profile `prefill` and all of profile `encode`; what the client sent there is overwritten."""
    prefiller = _addresses(result, prefill)[:1]
    set_header(request, headers.PREFILLER, ",".join(prefiller))
    set_header(request, headers.ENCODERS, ",".join(_addresses(result, encode)))


def set_header(request: Request, name: str, value: str) -> None:
    """Send `name` on with `value`. An empty value takes the place of the client's: only the picker may point at servers."""
    if value or name in request.headers:
        request.set_headers[name] = value


def _addresses(result: SchedulingResult, profile: str) -> list[str]:
    chosen = result.profiles.get(profile)
    return [] if chosen is None else [endpoint.host_port for endpoint in chosen.endpoints]
