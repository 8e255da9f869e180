"""pd-profile-handler: prefill and decode. Deprecated."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from epp.api import Handle, Request, SchedulingResult
from epp_plugins.handlers.disagg_profile_handler import Deciders, DisaggProfileHandler, Results, Stages
from epp_plugins.ranks import through_primary_port


class PdProfileHandler(DisaggProfileHandler):
    """The stages decode and prefill of disagg-profile-handler, which takes its place.

    With a `primaryPort` the destination is the chosen endpoint's address at that port, and the endpoint itself is named in
    x-data-parallel-host-port, as in data-parallel-profile-handler.
    """

    type = "pd-profile-handler"
    decision_metric: ClassVar[str] = "pd_decision_total"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        decode_profile: str = "decode"
        prefill_profile: str = "prefill"
        decider_plugin_name: str = "prefix-based-pd-decider"
        primary_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        handle.log.warning("plugin %s: type pd-profile-handler is deprecated; use disagg-profile-handler", handle.name)

    @classmethod
    def settings(cls, params: Any) -> DisaggProfileHandler.Params:
        return DisaggProfileHandler.Params(
            profiles=Stages(decode=params.decode_profile, prefill=params.prefill_profile, encode=""),
            deciders=Deciders(prefill=params.decider_plugin_name),
        )

    def process_results(self, request: Request, results: Results) -> SchedulingResult:
        result = super().process_results(request, results)
        return through_primary_port(request, result, self.params.primary_port)
