"""Writes the replies that every request needs straight as protobuf bytes: building message objects costs several times more.

Field numbers are those of external_processor.proto; tests compare each of these bytes with what the stubs write. What is the
same for many requests (the bytes of a header, of a destination's metadata) is kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_OVERWRITE: Final = b"\x18\x02"  # HeaderValueOption.append_action = OVERWRITE_IF_EXISTS_OR_ADD
CLEAR_ROUTE_CACHE: Final = b"\x28\x01"  # CommonResponse.clear_route_cache = true
_END_OF_STREAM: Final = b"\x10\x01"  # StreamedBodyResponse.end_of_stream = true

# ProcessingResponse's members, by the name of the member.
KINDS: Final = {
    "request_headers": 1,
    "response_headers": 2,
    "request_body": 3,
    "response_body": 4,
    "request_trailers": 5,
    "response_trailers": 6,
}


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_TABLE_SIZE: Final = 4096
_VARINTS: Final = tuple(_encode_varint(value) for value in range(_TABLE_SIZE))


def varint(value: int) -> bytes:
    """`value` (not negative) in base 128, least significant group first."""
    return _VARINTS[value] if value < _TABLE_SIZE else _encode_varint(value)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field; numbers up to 15."""
    return b"%c%b%b" % (number << 3 | 2, varint(len(content)), content)


@lru_cache(maxsize=4096)
def set_header(key: str, value: str) -> bytes:
    """HeaderMutation.set_headers: one header, replacing what is there."""
    header = field(1, key.encode()) + field(3, value.encode("utf-8", "surrogateescape"))
    return field(1, field(1, header) + _OVERWRITE)


@lru_cache(maxsize=4096)
def string_metadata(namespace: str, key: str, value: str) -> bytes:
    """ProcessingResponse.dynamic_metadata with one string in one namespace."""
    return field(8, _entry(namespace, field(5, _entry(key, field(3, value.encode("utf-8", "surrogateescape"))))))


def _entry(key: str, value: bytes) -> bytes:
    """Struct.fields: one entry."""
    return field(1, field(1, key.encode()) + field(2, value))


def headers_reply(kind: str, set_headers: bytes, flags: bytes = b"", metadata: bytes = b"") -> bytes:
    """A reply to headers, or to a body with header changes: `set_headers` are bytes of `set_header`."""
    common = (field(2, set_headers) if set_headers else b"") + flags
    return field(KINDS[kind], field(1, common)) + metadata


# How the fields around a piece of a body begin: the reply, BodyResponse.response, CommonResponse.body_mutation,
# BodyMutation.streamed_response.
_OUTER: Final = {kind: bytes((number << 3 | 2,)) for kind, number in KINDS.items()}


def streamed_reply(kind: str, body: bytes | memoryview, *, end: bool) -> bytes:
    """A piece of a full-duplex body."""
    head = _streamed_head(kind, len(body), end)
    return b"".join((head, body, _END_OF_STREAM)) if end else head + body


@lru_cache(maxsize=4096)
def _streamed_head(kind: str, body_bytes: int, end: bool) -> bytes:
    """All that stands before the body: the lengths of the fields around it, worked out from the inside."""
    head = b"\x0a" + varint(body_bytes) if body_bytes else b""
    size = body_bytes + len(head) + (len(_END_OF_STREAM) if end else 0)
    for tag in (b"\x1a", b"\x1a", b"\x0a", _OUTER[kind]):
        opening = tag + varint(size)
        head = opening + head
        size += len(opening)
    return head


def empty_reply(kind: str) -> bytes:
    """A reply to a body that changes nothing."""
    return _EMPTY[kind]


_EMPTY: Final = {kind: field(number, field(1, b"")) for kind, number in KINDS.items()}
