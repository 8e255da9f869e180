"""data-parallel-profile-handler: one profile picks a rank, the proxy of its server gets the request. Deprecated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from epp.api import Handle, ProfileResult, Request, SchedulingResult
from epp_plugins.handlers.single_profile_handler import SingleProfileHandler
from epp_plugins.ranks import through_primary_port


class DataParallelProfileHandler(SingleProfileHandler):
    """Runs the only profile; names its endpoint in x-data-parallel-host-port and sends to that address at `primaryPort`.

    Deprecated: let the pool list the ports of all ranks instead, and each is an endpoint of its own. Same rule as the Go
    EPP's data-parallel-profile-handler, which also loses the scores of the endpoints that were not picked.
    """

    type = "data-parallel-profile-handler"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        primary_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8000

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)  # type: ignore[arg-type]  # it reads none of its parameters
        handle.log.warning(
            "plugin %s: type %s is deprecated; list all ranks' ports in the pool", handle.name, self.type
        )

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        result = super().process_results(request, results)
        port: int = self.params.primary_port
        return through_primary_port(request, result, port)
