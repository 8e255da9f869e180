"""Speaks Envoy's side of ext_proc for tests: builds messages, reads replies, and an exchange that follows a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epp.api import RequestError, Termination
from epp.extproc.exchange import BodyMode, Destination, RequestHead, ResponseHead
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.extproc.stream import Stream

TARGET = "10.0.0.1:8000"
POST: Mapping[str, str] = {":method": "POST", ":path": "/v1/completions", "content-type": "application/json"}


def request_headers(
    fields: Mapping[str, str] = POST,
    *,
    end: bool = False,
    request_mode: BodyMode | None = None,
    response_mode: BodyMode | None = None,
    subset: Sequence[Any] | None = None,
) -> pb.ProcessingRequest:
    """The first message. Without modes it has no protocol_config."""
    message = pb.ProcessingRequest()
    message.request_headers.end_of_stream = end
    _fill(message.request_headers.headers, fields)
    if request_mode is not None or response_mode is not None:
        message.protocol_config.request_body_mode = (request_mode or BodyMode.NONE).value  # type: ignore[assignment]
        message.protocol_config.response_body_mode = (response_mode or BodyMode.NONE).value  # type: ignore[assignment]
    if subset is not None:
        hint(message, subset)
    return message


def hint(message: pb.ProcessingRequest, subset: Sequence[Any]) -> None:
    struct = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
    struct.update({"x-gateway-destination-endpoint-subset": list(subset)})


def request_body(body: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=end))


def request_trailers() -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_trailers=pb.HttpTrailers())


def response_headers(
    status: int = 200, fields: Mapping[str, str] | None = None, *, end: bool = False, served: str | None = None
) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.response_headers.end_of_stream = end
    found = {":status": str(status), "content-type": "application/json"} | dict(fields or {})
    _fill(message.response_headers.headers, found)
    if served is not None:
        struct = message.metadata_context.filter_metadata["envoy.lb"]
        struct.update({"x-gateway-destination-endpoint-served": served})
    return message


def response_body(body: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=body, end_of_stream=end))


def response_trailers() -> pb.ProcessingRequest:
    return pb.ProcessingRequest(response_trailers=pb.HttpTrailers())


def _fill(header_map: pb.HeaderMap, fields: Mapping[str, str]) -> None:
    for key, value in fields.items():
        header_map.headers.add(key=key, raw_value=value.encode())


class Replies(list[pb.ProcessingResponse]):
    """Replies of a stream, with views on what tests ask about."""

    @property
    def kinds(self) -> list[str]:
        return [str(r.WhichOneof("response")) for r in self]

    def headers_set(self, kind: str) -> dict[str, str]:
        """Headers that replies of this kind set."""
        found = {}
        for reply in self:
            if reply.WhichOneof("response") == kind:
                part = getattr(reply, kind)
                mutation = part.headers if kind == "immediate_response" else part.response.header_mutation
                found.update({o.header.key: o.header.raw_value.decode() for o in mutation.set_headers})
        return found

    def streamed(self, kind: str) -> bytes:
        """The body that full-duplex replies of this kind send on."""
        return b"".join(
            getattr(r, kind).response.body_mutation.streamed_response.body
            for r in self
            if r.WhichOneof("response") == kind
        )

    def ends(self, kind: str) -> list[bool]:
        """end_of_stream of each full-duplex reply of this kind."""
        return [
            getattr(r, kind).response.body_mutation.streamed_response.end_of_stream
            for r in self
            if r.WhichOneof("response") == kind
        ]

    @property
    def immediate(self) -> tuple[int, str]:
        """Status and body of the immediate response, which must be there."""
        (reply,) = [r for r in self if r.WhichOneof("response") == "immediate_response"]
        return reply.immediate_response.status.code, reply.immediate_response.body.decode()


class ScriptedExchange:
    """Routes everything to TARGET and notes what it was asked; the attributes change what it does."""

    def __init__(self) -> None:
        self.destination: Destination | None = Destination(TARGET)
        self.route_error: Exception | None = None
        self.response_error: Exception | None = None
        self.head: RequestHead | None = None
        self.body: bytes | None = None
        self.routes = 0
        self.response_head: ResponseHead | None = None
        self.chunks: list[bytes] = []
        self.hold_allowed: bool | None = None
        self.refusals: list[RequestError] = []
        self.failures: list[str] = []
        self.closed: list[Termination] = []

    def route(self, head: RequestHead, body: bytes | None) -> Destination | None:
        self.routes += 1
        self.head, self.body = head, body
        if self.route_error is not None:
            raise self.route_error
        return self.destination

    def response_headers(self, head: ResponseHead, *, hold_allowed: bool) -> Mapping[str, str]:
        self.response_head, self.hold_allowed = head, hold_allowed
        if self.response_error is not None:
            raise self.response_error
        return {}

    def response_body(self, chunk: bytes, *, last: bool) -> bytes:
        if self.response_error is not None:
            raise self.response_error
        self.chunks.append(chunk)
        return chunk

    def response_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def failed(self, where: str, error: Exception) -> None:
        self.failures.append(where)

    def refused(self, error: RequestError) -> None:
        self.refusals.append(error)

    def close(self, termination: Termination) -> None:
        self.closed.append(termination)


class HoldingExchange(ScriptedExchange):
    """Keeps the response body until it has ended, then sends it on in upper case."""

    def response_body(self, chunk: bytes, *, last: bool) -> bytes:
        self.chunks.append(chunk)
        if not last:
            return b""
        whole = b"".join(self.chunks).upper()
        self.chunks = []
        return whole


def play(exchange: ScriptedExchange, *messages: pb.ProcessingRequest, max_body_bytes: int = 1 << 20) -> Replies:
    """All replies to `messages`, on a fresh stream."""
    stream = Stream(exchange, max_body_bytes=max_body_bytes)
    return feed(stream, *messages)


def feed(stream: Stream, *messages: pb.ProcessingRequest) -> Replies:
    """The replies to `messages` on a stream that may be in the middle of its conversation."""
    for message in messages:
        stream.receive(message.SerializeToString())
    return take(stream)


def take(stream: Stream) -> Replies:
    replies = Replies(pb.ProcessingResponse.FromString(r) for r in stream.replies)
    stream.replies.clear()
    return replies
