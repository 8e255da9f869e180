"""disagg-headers-handler: the headers of disaggregated serving, for handlers that do not set them. Deprecated."""

from __future__ import annotations

import msgspec

from epp.api import Handle, PreRequest, Request, SchedulingResult
from epp_plugins.stage_headers import set_stage_headers


class DisaggHeadersHandler(PreRequest):
    """Sets x-prefiller-host-port and x-encoder-hosts-ports from the results of two profiles.

    Deprecated: disagg-profile-handler does so itself.
    """

    type = "disagg-headers-handler"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        prefill_profile: str = "prefill"
        encode_profile: str = "encode"

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        handle.log.warning("plugin %s: type %s is deprecated; use disagg-profile-handler", handle.name, self.type)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        set_stage_headers(request, result, prefill=self.params.prefill_profile, encode=self.params.encode_profile)
