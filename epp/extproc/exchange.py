"""What a stream asks of whoever decides: the seam between the protocol and the director.

The stream knows how Envoy is spoken to, the exchange knows what to say. One exchange serves one stream.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from epp.api import RequestError, Termination


class BodyMode(enum.IntEnum):
    """How Envoy sends bodies (ProcessingMode.BodySendMode in processing_mode.proto)."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4
    GRPC = 5


class RequestHead(msgspec.Struct):
    """The request as its headers tell it. `headers` has lower-case names; of repeated headers the last value.

    `subset` is the candidate subset hint (`ip:port` strings), None when there is none: the whole pool may serve.
    """

    headers: dict[str, str]
    end_of_stream: bool
    request_body_mode: BodyMode
    response_body_mode: BodyMode
    subset: list[str] | None = None


class ResponseHead(msgspec.Struct):
    """The response as its headers tell it.

    `served` is the endpoint (`ip:port`) that Envoy says has served it: None without metadata, empty when they lack it.
    """

    headers: dict[str, str]
    status: int
    end_of_stream: bool
    served: str | None = None


class Destination(msgspec.Struct):
    """Where the request goes and what is changed on the way.

    `value` is the destination list `ip:port[,ip:port...]`. `body` replaces the request body; None leaves it as it came.
    `metadata` is dynamic metadata by namespace. With `skip_response` the conversation ends after the request.
    """

    value: str
    set_headers: Mapping[str, str] = {}
    metadata: Mapping[str, Mapping[str, Any]] = {}
    body: bytes | None = None
    skip_response: bool = False


class Exchange(Protocol):
    """The decision and the bookkeeping of one request. `close` is called exactly once, whatever happens."""

    def route(self, head: RequestHead, body: bytes | None) -> Destination | None:
        """Choose a destination. `body` is None when the decision has to be made on the headers.

        None means that the decision has to wait: the stream is told later by `routed` or `refused`. Raises RequestError to
        refuse; anything else that is raised is answered with status 500.
        """
        ...

    def response_headers(self, head: ResponseHead, *, hold_allowed: bool) -> Mapping[str, str]:
        """Headers to set on the response. `hold_allowed`: response_body may keep bytes back until the body ends."""
        ...

    def response_body(self, chunk: bytes, *, last: bool) -> bytes:
        """The bytes to send on for `chunk`: the very same object when nothing changed; fewer or more otherwise.

        With `last` everything that was kept back must come out; an empty last chunk may follow another last one.
        """
        ...

    def response_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """Dynamic metadata to attach to the end of the response body."""
        ...

    def failed(self, where: str, error: Exception) -> None:
        """`error` came out of this exchange at `where`; the client has been or will be served regardless."""
        ...

    def refused(self, error: RequestError) -> None:
        """The client is being told `error`."""
        ...

    def close(self, termination: Termination) -> None:
        """The conversation is over. Must not raise."""
        ...
