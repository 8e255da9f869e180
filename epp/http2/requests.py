"""The head of a request: which header lists are well-formed (RFC 9113, section 8) and what gRPC reads from them.

A head is immutable and depends on the fields alone, so that equal header blocks can share one (`HeadReader`).
"""

import re
from dataclasses import dataclass

from epp.http2 import grpc
from epp.http2.headers import Field, HeaderDecoder
from epp.http2.limits import Limits

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # a token without upper case (sections 8.2 and 8.2.1)
_VALUE = re.compile(rb"(?:[^\x00\r\n\t ](?:[^\x00\r\n]*[^\x00\r\n\t ])?)?")  # section 8.2.1
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_FORBIDDEN = frozenset(
    ("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade")
)  # section 8.2.2
_READ_HERE = _FORBIDDEN | {
    "te",
    "content-length",
    "content-type",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
}
_MAX_KNOWN_FIELDS = 512
_MAX_CACHED_LIST_BYTES = 4096


class MalformedRequest(Exception):
    """The header list breaks a rule of RFC 9113 section 8; the stream is answered with PROTOCOL_ERROR."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request's header list, checked and read."""

    path: str
    """`:path`, e.g. /package.Service/Method; empty for CONNECT."""
    headers: tuple[tuple[str, str], ...]
    """Regular fields in order, names in lower case; bytes that are not UTF-8 as surrogate escapes."""
    method: str = "POST"
    authority: str = ""
    content_length: int = -1
    """Bytes of body announced; -1 when not."""
    timeout_s: float | None = None
    """From grpc-timeout."""
    encoding: str = "identity"
    """Of compressed request messages."""
    accepts_gzip: bool = False
    http_refusal: int = 0
    """HTTP status to answer with when this is no gRPC request; 0 when it is."""
    malformed: str = ""
    """The HTTP/2 rule that is broken; empty when none is."""
    bad_timeout: str = ""
    """Why grpc-timeout cannot be read; empty when it can or is absent."""


class HeadReader:
    """Header blocks of one connection to request heads, with memory of both blocks and single fields.

    Whole heads are kept by their bytes until a block changes the dynamic table; then the same bytes could mean
    other fields, and all are dropped. Checked fields are kept by name and value, which never age.
    Both memories have a fixed size and are emptied when full.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = HeaderDecoder(2 * limits.max_header_list_bytes)
        self._heads: dict[bytes, RequestHead] = {}
        self._texts: dict[Field, tuple[str, str]] = {}

    def request(self, block: bytes) -> RequestHead:
        """Never raises for a malformed list, which `malformed` tells; ConnectionFailure when the block does not decode."""
        head = self._heads.get(block)
        if head is not None:
            return head
        fields = self._decode(block)
        list_bytes = self._decoder.list_bytes
        if list_bytes > self._limits.max_header_list_bytes:
            return RequestHead("", (), http_refusal=431)
        try:
            head = self._read(fields)
        except MalformedRequest as error:
            return RequestHead("", (), malformed=str(error))
        if not self._decoder.touched_table and max(list_bytes, len(block)) <= _MAX_CACHED_LIST_BYTES:
            if len(self._heads) >= self._limits.max_cached_heads:
                self._heads.clear()
            self._heads[block] = head
        return head

    def trailers(self, block: bytes) -> str:
        """Decode a request's trailers; what is malformed about them, or nothing."""
        try:
            for field in self._decode(block):
                self._text(field)
        except MalformedRequest as error:
            return str(error)
        return ""

    def skip(self, block: bytes) -> None:
        """Decode for the table's sake (RFC 9113, section 4.3) a block that nobody wants."""
        if block not in self._heads:
            self._decode(block)

    def _decode(self, block: bytes) -> list[Field]:
        fields = self._decoder.decode(block)
        if self._decoder.touched_table:
            self._heads.clear()
        return fields

    def _text(self, field: Field) -> tuple[str, str]:
        known = self._texts.get(field)
        if known is not None:
            return known
        checked = _checked(field)
        if len(field[0]) + len(field[1]) <= 256:
            if len(self._texts) >= _MAX_KNOWN_FIELDS:
                self._texts.clear()
            self._texts[field] = checked
        return checked

    def _read(self, fields: list[Field]) -> RequestHead:
        pseudo: dict[bytes, bytes] = {}
        headers: list[tuple[str, str]] = []
        special: dict[str, str] = {}
        for field in fields:
            name = field[0]
            if name[:1] == b":":
                if headers or name in pseudo or name not in _PSEUDO:
                    raise MalformedRequest("pseudo-header field is unknown, repeated or after a regular one")
                pseudo[name] = field[1]
                continue
            text = self._text(field)
            headers.append(text)
            if text[0] in _READ_HERE:
                _note(special, *text)
        method, path = _request_line(pseudo)
        return _head(method, path, pseudo.get(b":authority", b""), tuple(headers), special)


def _checked(field: Field) -> tuple[str, str]:
    name, value = field
    if not _NAME.fullmatch(name):
        raise MalformedRequest("field name is empty, not a token, in upper case, or a pseudo-header out of place")
    if not _VALUE.fullmatch(value):
        raise MalformedRequest(f"{name.decode()}: value has a control character or white space around it")
    return name.decode(), value.decode("utf-8", "surrogateescape")


def _note(special: dict[str, str], name: str, value: str) -> None:
    if name in _FORBIDDEN:
        raise MalformedRequest(f"{name}: connection-specific field")
    if name == "te" and value != "trailers":
        raise MalformedRequest("te: anything but trailers")
    if name == "content-length" and special.get(name, value) != value:
        raise MalformedRequest("content-length: two values")
    if name == "grpc-accept-encoding" and name in special:
        value = f"{special[name]},{value}"
    special[name] = value


def _request_line(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Method and path; the rules of RFC 9113, sections 8.3.1 and 8.5."""
    for value in pseudo.values():
        if not _VALUE.fullmatch(value):
            raise MalformedRequest("pseudo-header value has a control character or white space around it")
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not method:
        raise MalformedRequest(":method: missing or empty")
    if method == b"CONNECT":
        if b":scheme" in pseudo or b":path" in pseudo or not pseudo.get(b":authority"):
            raise MalformedRequest("CONNECT: expected :authority alone")
        return method, b""
    if not pseudo.get(b":scheme"):
        raise MalformedRequest(":scheme: missing or empty")
    if not path.startswith(b"/") and (method, path) != (b"OPTIONS", b"*"):
        raise MalformedRequest(":path: missing, empty or without a leading slash")
    return method, path


def _head(
    method: bytes, path: bytes, authority: bytes, headers: tuple[tuple[str, str], ...], special: dict[str, str]
) -> RequestHead:
    length = special.get("content-length")
    if length is not None and not _DIGITS.fullmatch(length):
        raise MalformedRequest("content-length: not a number")
    timeout_s, bad_timeout = None, ""
    if "grpc-timeout" in special:
        try:
            timeout_s = grpc.timeout_s(special["grpc-timeout"])
        except ValueError as error:
            bad_timeout = str(error)
    return RequestHead(
        path=path.decode("utf-8", "surrogateescape"),
        headers=headers,
        method=method.decode("utf-8", "surrogateescape"),
        authority=authority.decode("utf-8", "surrogateescape"),
        content_length=-1 if length is None else int(length),
        timeout_s=timeout_s,
        encoding=special.get("grpc-encoding", "identity"),
        accepts_gzip="gzip" in [name.strip() for name in special.get("grpc-accept-encoding", "").split(",")],
        http_refusal=_refusal(method, special.get("content-type", "")),
        bad_timeout=bad_timeout,
    )


def _refusal(method: bytes, content_type: str) -> int:
    # PROTOCOL-HTTP2.md: "gRPC servers SHOULD respond with HTTP status of 415" to any other content-type.
    if not grpc.is_grpc(content_type):
        return 415
    return 0 if method == b"POST" else 405
