"""session-id-producer: the id of a request's session, from a header or a cookie."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from epp.api import SESSION_ID, Candidates, ConfigError, DataProducer, Handle, Request, data_key


class SessionIdProducer(DataProducer):
    """Publishes the value of the header `headerName` or of the cookie `cookieName`; nothing where it is absent or empty.

    Without parameters the header is x-session-id, where the Go EPP's session-id-producer cannot be created by default.
    """

    type = "session-id-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        header_name: str = ""
        cookie_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if params.header_name and params.cookie_name:
            raise ConfigError("cookieName: name either a header or a cookie, not both")
        self._key = data_key(SESSION_ID, handle.name)
        self._header = (params.header_name or "x-session-id").lower()

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def produce(self, request: Request, candidates: Candidates) -> None:
        cookie_name = self.params.cookie_name
        if cookie_name:
            value = _cookie(request.headers.get("cookie", ""), cookie_name)
        else:
            value = request.headers.get(self._header, "")
        if value:
            request.data[self._key] = value


def _cookie(header: str, name: str) -> str:
    """The value of cookie `name` (RFC 6265, 5.4: `a=1; b=2`), empty when there is none."""
    for pair in header.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value.strip('"')
    return ""
