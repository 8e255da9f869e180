"""ProcessingRequest as it is read: the message of ext_proc.proto, with each header and the metadata left as their bytes.

The same on the wire. Making an object of every header costs more than everything else about a message, most headers are those
of the request before, and hardly any message has metadata that somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, Protocol, cast

from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from epp.extproc.gen import ext_proc_pb2 as pb

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
