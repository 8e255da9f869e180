"""Between protobuf messages and plain values: reads what Envoy sent, builds what it is told. No state, no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from epp.api import Code, RequestError, headers
from epp.extproc import wire
from epp.extproc.exchange import Destination
from epp.extproc.gen import ext_proc_pb2 as pb

# The Go EPP's BodyByteLimit: below the 64 KiB that processing_mode.proto advises, with room for the message around it.
BODY_CHUNK_BYTES: Final = 62_000

_OVERWRITE: Final = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

# What a gRPC client is told; the HTTP status alone would be mapped by Envoy, which knows fewer codes.
_GRPC_STATUS: Final[Mapping[Code, int]] = {
    Code.BAD_REQUEST: 3,
    Code.NOT_FOUND: 5,
    Code.FORBIDDEN: 7,
    Code.PAYLOAD_TOO_LARGE: 8,
    Code.RESOURCE_EXHAUSTED: 8,
    Code.PRECONDITION_FAILED: 9,
    Code.UNSUPPORTED_MEDIA_TYPE: 12,
    Code.INTERNAL: 13,
    Code.SERVICE_UNAVAILABLE: 14,
    Code.UNAUTHORIZED: 16,
}


_MARK: Final = wire.set_header(headers.WENT_INTO_RESPONSE_HEADERS, "true")
_MARKED: Final = wire.headers_reply("response_headers", _MARK)


def read_subset(metadata: bytes) -> list[str] | None:
    """The candidate subset hint, or None when there is none or it is not a list. Items that are not strings are left out."""
    namespaces = pb.Metadata.FromString(metadata).filter_metadata
    if headers.SUBSET_METADATA_NAMESPACE not in namespaces:
        return None
    fields = namespaces[headers.SUBSET_METADATA_NAMESPACE].fields
    if headers.DESTINATION_ENDPOINT_SUBSET not in fields:
        return None
    value = fields[headers.DESTINATION_ENDPOINT_SUBSET]
    if value.WhichOneof("kind") != "list_value":
        return None
    return [v.string_value for v in value.list_value.values if v.WhichOneof("kind") == "string_value"]


def read_served(metadata: bytes) -> str | None:
    """The endpoint that Envoy says has served the request; None without its metadata, empty when they do not say."""
    namespaces = pb.Metadata.FromString(metadata).filter_metadata
    if headers.METADATA_NAMESPACE not in namespaces:
        return None
    fields = namespaces[headers.METADATA_NAMESPACE].fields
    if headers.DESTINATION_ENDPOINT_SERVED not in fields:
        return ""
    return fields[headers.DESTINATION_ENDPOINT_SERVED].string_value


def request_headers_reply(destination: Destination | None, *, body_size: int) -> bytes:
    """The reply to request headers; without a destination it lets them pass as they are."""
    if destination is None:
        return wire.empty_reply("request_headers")
    return wire.headers_reply(
        "request_headers", _route_headers(destination, body_size), wire.CLEAR_ROUTE_CACHE, _route_metadata(destination)
    )


def request_body_reply(destination: Destination, *, body: bytes | None) -> bytes:
    """The reply to a buffered request body: the route and, unless None, the body that replaces it."""
    size = len(body) if body is not None else 0
    flags = wire.CLEAR_ROUTE_CACHE
    if body is not None:
        flags = wire.field(3, wire.field(1, body)) + flags
    return wire.headers_reply("request_body", _route_headers(destination, size), flags, _route_metadata(destination))


def request_trailers_reply(destination: Destination | None = None) -> bytes:
    """The reply to request trailers; `destination` where nothing earlier could carry it (as metadata alone)."""
    trailers = wire.field(wire.KINDS["request_trailers"], b"")
    return trailers if destination is None else trailers + _route_metadata(destination)


def response_headers_reply(set_headers: Mapping[str, str]) -> bytes:
    """The reply to response headers; they are marked as seen, as the Go EPP does."""
    if not set_headers:
        return _MARKED
    return wire.headers_reply("response_headers", _MARK + _header_bytes(set_headers))


def streamed_replies(
    kind: str, body: bytes, *, end: bool, metadata: Mapping[str, Mapping[str, Any]]
) -> Iterator[bytes]:
    """Replies for a full-duplex body of `kind` (`request_body` or `response_body`): at least one, each at most 62,000 bytes.

    Only the last carries `end` and the metadata.
    """
    size = len(body)
    if size <= BODY_CHUNK_BYTES:
        yield wire.streamed_reply(kind, body, end=end) + _metadata_bytes(metadata)
        return
    view = memoryview(body)
    for start in range(0, size, BODY_CHUNK_BYTES):
        last = start + BODY_CHUNK_BYTES >= size
        reply = wire.streamed_reply(kind, view[start : start + BODY_CHUNK_BYTES], end=end and last)
        yield reply + _metadata_bytes(metadata) if last else reply


def chunk_reply(
    kind: str, body: bytes | None, *, metadata: Mapping[str, Mapping[str, Any]], sized: bool = False
) -> bytes:
    """The reply to one streamed or buffered chunk of `kind`: None lets it pass, anything else replaces it.

    `sized`: the chunk is the whole body, and its length is to be told anew (Envoy 1.40 answers 500 when a buffered body
    does not have the length that was announced; in the other modes it drops the length).
    """
    if body is None and not metadata:
        return wire.empty_reply(kind)
    reply = pb.ProcessingResponse()
    common = getattr(reply, kind).response
    common.SetInParent()
    if body:
        common.body_mutation.body = body
        if sized:
            _set_headers(common.header_mutation, (("Content-Length", str(len(body))),))
    elif body is not None:
        common.body_mutation.clear_body = True
    if metadata:
        reply.dynamic_metadata.update(metadata)
    return reply.SerializeToString()


def response_trailers_reply() -> bytes:
    """The reply to response trailers: nothing changed."""
    return wire.field(wire.KINDS["response_trailers"], b"")


def immediate_reply(error: RequestError, *, grpc: bool) -> bytes:
    """The reply that answers the client in Envoy's stead. `grpc`: the client speaks gRPC and wants a gRPC status."""
    reply = pb.ProcessingResponse()
    immediate = reply.immediate_response
    immediate.status.code = error.http_status  # type: ignore[assignment]
    immediate.body = error.body.encode("utf-8", "replace")
    _set_headers(immediate.headers, error.headers.items())
    if grpc:
        immediate.grpc_status.status = _GRPC_STATUS.get(error.code, 2)
    return reply.SerializeToString()


def _route_headers(destination: Destination, body_size: int) -> bytes:
    found = wire.set_header(headers.DESTINATION_ENDPOINT, destination.value)
    if body_size:
        # In full-duplex mode Envoy has removed the length: with it, model servers need not read chunked bodies.
        found += wire.set_header("Content-Length", str(body_size))
    if destination.set_headers:
        found += _header_bytes(destination.set_headers)
    return found


def _header_bytes(pairs: Mapping[str, str]) -> bytes:
    return b"".join([wire.set_header(key, value) for key, value in pairs.items()])


def _route_metadata(destination: Destination) -> bytes:
    if not destination.metadata:
        return wire.string_metadata(headers.METADATA_NAMESPACE, headers.DESTINATION_ENDPOINT, destination.value)
    merged = {namespace: dict(values) for namespace, values in destination.metadata.items()}
    merged.setdefault(headers.METADATA_NAMESPACE, {})[headers.DESTINATION_ENDPOINT] = destination.value
    return _metadata_bytes(merged)


def _metadata_bytes(metadata: Mapping[str, Mapping[str, Any]]) -> bytes:
    if not metadata:
        return b""
    reply = pb.ProcessingResponse()
    reply.dynamic_metadata.update(metadata)
    return reply.SerializeToString()


def _set_headers(mutation: pb.HeaderMutation, pairs: Iterable[tuple[str, str]]) -> None:
    for key, value in pairs:
        option = mutation.set_headers.add()
        option.header.key = key
        option.header.raw_value = value.encode("utf-8", "surrogateescape")
        option.append_action = _OVERWRITE
