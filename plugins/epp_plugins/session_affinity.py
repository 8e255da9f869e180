"""Which endpoint a request's session belongs to: by a token that names it, or by remembering who served the session.

Shared by the plugins that prefer that endpoint and those that keep nothing else.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from epp.api import (
    AGENT_IDENTITY,
    SESSION_ID,
    Candidates,
    ConfigError,
    Endpoint,
    EndpointListener,
    Handle,
    PreRequest,
    Request,
    Response,
    ResponseReceived,
    SchedulingResult,
    data_key,
)
from epp_plugins.session_table import SessionTable

_TOKEN_BYTES = 16


class TokenHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The header that carries an endpoint's token to the client and back. `signingKeyEnv` names an environment variable."""

    header: str = "x-session-token"
    signing_key_env: str = ""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a session's id is: in a request header, or among the data that `producer` publishes."""

    header: str = ""
    attribute: str = ""
    producer: str = ""

    @property
    def key(self) -> str:
        """The data key of an attribute; only those that have a default producer are known without one."""
        named = self.producer or self.attribute in (SESSION_ID, AGENT_IDENTITY)
        return data_key(self.attribute, self.producer) if named else self.attribute


class SessionIds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Sources in the order in which they are looked at, and how long an idle session is remembered."""

    sources: tuple[Source, ...] = (Source(header="x-session-id"),)
    eviction_ttl_seconds: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    eviction_sweep_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    max_sessions: Annotated[int, msgspec.Meta(ge=1)] = 100_000


class SessionParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Only the section of the chosen strategy counts. `profileName`: whose endpoint it is; empty: the destination."""

    strategy: Literal["encoded_endpoint_header", "session_id"] = "encoded_endpoint_header"
    encoded_endpoint_header_config: TokenHeader = TokenHeader()
    session_id_config: SessionIds = SessionIds()
    profile_name: str = ""


class SessionAffinity(PreRequest, ResponseReceived, EndpointListener):
    """Finds the endpoint that a session is bound to, and binds it.

    `encoded_endpoint_header`: every response but a 5xx carries the token of the endpoint that served it, and a request that
    brings it back is bound to that endpoint. Nothing is remembered here, so any replica can serve it. The token is base64 of
    `namespace/name`, as the Go EPP's: clients can read it, and can write one for any endpoint. With `signingKeyEnv` it is a
    keyed hash of that name, which they can do neither with; all replicas need the same key.

    `session_id`: a session without a live endpoint among the candidates is bound to the one that its request is sent to, and
    forgotten `evictionTtlSeconds` after its last request, or when there are more than `maxSessions`. Expired sessions go as
    soon as others are bound: `evictionSweepSeconds` is accepted and makes no difference.
    """

    Params = SessionParams

    def __init__(self, params: SessionParams, handle: Handle) -> None:
        super().__init__(params, handle)
        self._profile = params.profile_name
        self._header = ""
        self._sources: tuple[Source, ...] = ()
        self._tokens: dict[Endpoint, str] = {}
        self._key = b""
        ids = params.session_id_config
        self._table = SessionTable(ttl_s=ids.eviction_ttl_seconds or 300.0, limit=ids.max_sessions)
        if params.strategy == "encoded_endpoint_header":
            self._header = (params.encoded_endpoint_header_config.header or "x-session-token").lower()
            self._key = _signing_key(params.encoded_endpoint_header_config.signing_key_env)
        else:
            self._sources = ids.sources or (Source(header="x-session-id"),)
            _check_sources(self._sources)

    def consumes(self) -> Sequence[str]:
        return tuple(source.key for source in self._sources if source.attribute)

    def bound_to(self, request: Request, candidates: Candidates) -> list[bool] | None:
        """Per candidate, whether the session is bound to it: true for one. None without a session or without that candidate."""
        if self._header:
            return self._by_token(request.headers, candidates)
        session = self._session(request)
        if not session:
            return None
        endpoint = self._table.find(session, now_s=self.handle.clock())
        mask = [candidate is endpoint for candidate in candidates]
        present = endpoint is not None and any(mask)
        request.state[self] = (session, present)
        return mask if present else None

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        if self._header:
            return
        session, present = request.state.pop(self, None) or (self._session(request), False)
        chosen = self._served(request, result)
        if not session or chosen is None:
            return
        now_s = self.handle.clock()
        if present:
            self._table.touch(session, now_s=now_s)
        else:
            self._table.bind(session, chosen, now_s=now_s)

    def response_received(self, request: Request, response: Response) -> None:
        if not self._header or request.result is None or response.status >= 500:
            return
        endpoint = self._served(request, request.result, served=response.served_endpoint or "")
        if endpoint is not None:
            response.set_headers[self._header] = self._token(endpoint)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._tokens.pop(endpoint, None)

    def _served(self, request: Request, result: SchedulingResult, *, served: str = "") -> Endpoint | None:
        """The endpoint of this plugin's profile; of the destinations the one that the proxy says it used."""
        chosen = result.profiles.get(self._profile or result.primary)
        if chosen is None or not chosen.endpoints:
            return None
        return next((e for e in chosen.endpoints if e.host_port == served), chosen.endpoints[0])

    def _session(self, request: Request) -> str:
        for source in self._sources:
            value = request.headers.get(source.header.lower()) if source.header else request.data.get(source.key)
            if value:
                return str(value)
        return ""

    def _by_token(self, headers: Mapping[str, str], candidates: Candidates) -> list[bool] | None:
        token = headers.get(self._header, "").encode("utf-8", "surrogateescape")
        if not token:
            return None
        mask = [hmac.compare_digest(self._token(e).encode(), token) for e in candidates]
        return mask if any(mask) else None

    def _token(self, endpoint: Endpoint) -> str:
        token = self._tokens.get(endpoint)
        if token is None:
            name = f"{endpoint.namespace}/{endpoint.name}".encode()
            raw = hmac.digest(self._key, name, "sha256")[:_TOKEN_BYTES] if self._key else name
            token = base64.b64encode(raw).decode()
            if endpoint.alive:
                self._tokens[endpoint] = token
        return token


def _signing_key(variable: str) -> bytes:
    if not variable:
        return b""
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(
            f"encodedEndpointHeaderConfig.signingKeyEnv: the environment variable {variable} is not set; put a secret there"
        )
    return key.encode("utf-8", "surrogateescape")


def _check_sources(sources: Sequence[Source]) -> None:
    for i, source in enumerate(sources):
        if bool(source.header) == bool(source.attribute):
            raise ConfigError(f"sessionIdConfig.sources[{i}]: name either a header or an attribute")
        if source.producer and not source.attribute:
            raise ConfigError(f"sessionIdConfig.sources[{i}].producer: only an attribute has a producer")
        if source.attribute and "/" not in source.key:
            raise ConfigError(
                f'sessionIdConfig.sources[{i}].producer: name the plugin that publishes "{source.attribute}"'
            )
