"""ProcessingRequest as it is read: the message of ext_proc.proto, with each header and the metadata left as their bytes.

The same on the wire. Making an object of every header costs more than everything else about a message, most headers are those
of the request before and remembered by their bytes, and hardly any message has metadata that somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, Protocol, cast

from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from epp.extproc.gen import ext_proc_pb2 as pb

_KEPT_HEADERS: Final = 512
_KEPT_HEADER_BYTES: Final = 256
# Different in every request, or nobody's to keep.
_NOT_KEPT: Final = frozenset(
    {"x-request-id", "traceparent", "authorization", "proxy-authorization", "cookie", "x-api-key"}
)

Kind = Literal[
    "request_headers",
    "response_headers",
    "request_body",
    "response_body",
    "request_trailers",
    "response_trailers",
]


class HeaderMap(Protocol):
    @property
    def headers(self) -> Iterable[bytes]:
        """Each a HeaderValue."""


class HttpHeaders(Protocol):
    @property
    def headers(self) -> HeaderMap: ...
    @property
    def end_of_stream(self) -> bool: ...


class ProcessingRequest(Protocol):
    """One message from Envoy."""

    @property
    def request_headers(self) -> HttpHeaders: ...
    @property
    def response_headers(self) -> HttpHeaders: ...
    @property
    def request_body(self) -> pb.HttpBody: ...
    @property
    def response_body(self) -> pb.HttpBody: ...
    @property
    def metadata_context(self) -> bytes:
        """A Metadata; empty where there is none."""

    @property
    def protocol_config(self) -> pb.ProtocolConfiguration: ...
    def HasField(self, name: Literal["protocol_config"]) -> bool: ...  # noqa: N802 - protobuf's name
    def WhichOneof(self, name: Literal["request"]) -> Kind | None: ...  # noqa: N802 - protobuf's name


def _reader() -> Callable[[bytes], ProcessingRequest]:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    fields = {(m.name, f.name): f for m in file.message_type for f in m.field}
    for name in (("HeaderMap", "headers"), ("ProcessingRequest", "metadata_context")):
        fields[name].type = FieldDescriptorProto.TYPE_BYTES
        fields[name].ClearField("type_name")
    pool = DescriptorPool()
    for imported in (any_pb2, duration_pb2, struct_pb2, wrappers_pb2):
        pool.AddSerializedFile(imported.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    of = GetMessageClass(pool.FindMessageTypeByName(pb.ProcessingRequest.DESCRIPTOR.full_name))
    return cast("Callable[[bytes], ProcessingRequest]", of.FromString)


read: Final = _reader()
"""One serialized message. Raises DecodeError, also later, for what was left as bytes."""


class _KnownHeaders(dict[bytes, tuple[str, str]]):
    """Names and values of headers by their bytes; emptied when full, so that those of all requests stay."""

    def __missing__(self, header: bytes) -> tuple[str, str]:
        found = pb.HeaderValue.FromString(header)
        name = found.key.lower()
        pair = name, found.raw_value.decode("utf-8", "surrogateescape") or found.value
        if name not in _NOT_KEPT and len(header) <= _KEPT_HEADER_BYTES:
            if len(self) >= _KEPT_HEADERS:
                self.clear()
            self[header] = pair
        return pair


_known_header: Final = _KnownHeaders().__getitem__


def read_headers(header_map: HeaderMap) -> dict[str, str]:
    """Headers by lower-case name; of repeated ones the last. Bytes that are not UTF-8 survive as surrogates."""
    return dict(map(_known_header, header_map.headers))
