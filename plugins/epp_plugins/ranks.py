"""Data-parallel ranks behind one proxy: the request goes to the proxy's port and a header names the rank."""

from __future__ import annotations

from epp.api import Request, SchedulingResult, headers, host_port
from epp_plugins.stage_headers import set_header


def through_primary_port(request: Request, result: SchedulingResult, port: int) -> SchedulingResult:
    """`result` with its target's address at `port` as destination; as it is for port 0 or without a target."""
    if not port or result.profiles.get(result.primary) is None:
        return result
    set_header(request, headers.DATA_PARALLEL_RANK, result.target.host_port)
    return SchedulingResult(result.profiles, result.primary, destination=host_port(result.target.address, port))
