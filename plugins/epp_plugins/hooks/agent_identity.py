"""agent-identity: who an agent's request belongs to, from the headers that agents send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from epp.api import AGENT_IDENTITY, Handle, Request, RequestHeaderProcessor, data_key, headers

SESSION_HEADERS: Final = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")


class AgentIdentity(RequestHeaderProcessor):
    """Publishes the value of the first session header that is there: four known ones, then `additionalSessionHeaders`.

    It is the fairness id of requests that name none. Same rule as the Go EPP's agent-identity.
    """

    type = "agent-identity"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        additional_session_headers: tuple[str, ...] = ()

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(AGENT_IDENTITY, handle.name)
        self._headers = (*SESSION_HEADERS, *(name.lower() for name in params.additional_session_headers))

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def process_request_header(self, request: Request) -> None:
        identity = headers.first_of(request.headers, self._headers)
        if not identity:
            return
        request.data[self._key] = identity
        if not headers.first_of(request.headers, headers.FAIRNESS_ID):
            request.fairness_id = identity
