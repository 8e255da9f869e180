"""gRPC over HTTP/2 as pure functions: status codes, the message prefix, percent-encoding, time-outs, gzip, metadata.

Source of the rules: PROTOCOL-HTTP2.md, statuscodes.md and compression.md of the gRPC project.
"""

import base64
import re
import zlib
from collections.abc import Sequence
from enum import IntEnum
from struct import Struct

from epp.http2 import literals
from epp.http2.errors import ErrorCode

Metadata = Sequence[tuple[str, str | bytes]]
"""Names in lower case; a value is bytes exactly where its name ends in `-bin`."""

PREFIX = Struct(">BI")
PREFIX_BYTES = 5

_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_NAME = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_ASCII_VALUE = re.compile(r"[\x20-\x7e]*")
MAX_STATUS_MESSAGE_BYTES = 4096  # before percent-encoding, which may triple it; peers accept 16 KiB of headers at least


class Status(IntEnum):
    """Codes of `grpc-status` (statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class MessageError(Exception):
    """A message that cannot be delivered; `status` and `message` end the call."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status
        self.message = message


_STATUS_OF_RESET = {
    ErrorCode.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCode.CANCEL: Status.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
    ErrorCode.STREAM_CLOSED: Status.UNKNOWN,
}


def status_of_reset(code: int) -> Status:
    """The gRPC status that an HTTP/2 error code stands for (PROTOCOL-HTTP2.md, "Errors"); INTERNAL for the rest."""
    return _STATUS_OF_RESET.get(code, Status.INTERNAL)  # type: ignore[call-overload, no-any-return]


def timeout_s(value: str) -> float:
    """`grpc-timeout` in seconds: at most 8 digits and a unit. Raises ValueError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError(f"grpc-timeout: {value[:32]!r} is not 1 to 8 digits and one of H M S m u n")
    return int(match[1]) * _UNITS_S[match[2]]


def percent_encode(message: str) -> bytes:
    """`grpc-message`: printable ASCII but "%" as it is, every other UTF-8 byte as %XX."""
    raw = message.encode("utf-8", "replace")[:MAX_STATUS_MESSAGE_BYTES]
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)


def is_grpc(content_type: str) -> bool:
    """Whether a request's content-type is one this server speaks: application/grpc, with or without +proto."""
    media_type = content_type.partition(";")[0].rstrip().lower()
    return media_type in ("application/grpc", "application/grpc+proto")


def gunzip(data: bytes, max_bytes: int) -> bytes:
    """Never inflates more than `max_bytes` + 1. Raises MessageError: RESOURCE_EXHAUSTED beyond it, INTERNAL for broken data."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        message = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise MessageError(Status.INTERNAL, "message is not valid gzip") from error
    if len(message) > max_bytes:
        raise too_large(len(message), max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise MessageError(Status.INTERNAL, "gzip message is truncated or has trailing bytes")
    return message


def gzip(data: bytes) -> bytes:
    """Level 1: replies are small and short-lived, so speed counts more than the last bytes."""
    deflater = zlib.compressobj(level=1, wbits=31)
    return deflater.compress(data) + deflater.flush()


def too_large(size_bytes: int, max_bytes: int) -> MessageError:
    return MessageError(
        Status.RESOURCE_EXHAUSTED, f"message of at least {size_bytes} bytes exceeds the limit of {max_bytes}"
    )


def metadata_block(metadata: Metadata) -> bytes:
    """Header fields for custom metadata. Raises ValueError for a name or value that HTTP/2 or gRPC forbids."""
    return b"".join(literals.field(name.encode(), _metadata_value(name, value)) for name, value in metadata)


def _metadata_value(name: str, value: str | bytes) -> bytes:
    if not _NAME.fullmatch(name) or name.startswith("grpc-"):
        raise ValueError(f"metadata name {name!r}: expected lower-case letters, digits and _ . - and no grpc- prefix")
    if name.endswith("-bin"):
        if isinstance(value, str):
            raise ValueError(f"metadata {name}: expected bytes, because the name ends in -bin")
        return base64.b64encode(value).rstrip(b"=")
    if isinstance(value, bytes) or not _ASCII_VALUE.fullmatch(value):
        raise ValueError(f"metadata {name}: expected printable ASCII text; name it {name}-bin to send bytes")
    return value.strip(" ").encode()


def trailers_block(status: int, message: str, metadata: Metadata = ()) -> bytes:
    """The fields that end a call."""
    block = literals.field(b"grpc-status", b"%d" % status)
    if message:
        block += literals.field(b"grpc-message", percent_encode(message))
    return block + metadata_block(metadata)
