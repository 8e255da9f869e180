"""The head of a request: which header lists are well-formed (RFC 9113, section 8) and what gRPC reads from them.

A head is immutable and depends on the fields alone, so that equal requests can share it or its parts (`HeadReader`).
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

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
_MAX_KEPT_FIELDS = 512
_MAX_KEPT_FIELD_BYTES = 256
_MAX_KEPT_LIST_BYTES = 4096
_K = TypeVar("_K")
_V = TypeVar("_V")


class MalformedRequest(Exception):
    """The header list breaks a rule of RFC 9113 section 8; the stream is answered with PROTOCOL_ERROR."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pseudo-header fields, and the regular ones that HTTP/2 or gRPC read, say about a request."""

    path: str = ""
    """`:path`, e.g. /package.Service/Method; empty for CONNECT."""
    method: str = "POST"
    authority: str = ""
    content_length: int = -1
    """Bytes of body announced; -1 when not."""
    timeout_s: float | None = None
    """From grpc-timeout."""
    bad_timeout: str = ""
    """Why grpc-timeout cannot be read; empty when it can or is absent."""
    encoding: str = "identity"
    """Of compressed request messages."""
    accepts_gzip: bool = False
    http_refusal: int = 0
    """HTTP status to answer with when this is no gRPC request; 0 when it is."""
    malformed: str = ""
    """The HTTP/2 rule that is broken; empty when none is."""


class RequestHead(NamedTuple):
    """One request's header list, checked and read."""

    facts: Facts
    headers: tuple[tuple[str, str], ...] = ()
    """Regular fields in order, names in lower case; bytes that are not UTF-8 as surrogate escapes."""


class _Text(NamedTuple):
    """A checked field; `pseudo` and `telling` say whether `Facts` depend on it."""

    text: tuple[str, str]
    pseudo: bool
    telling: bool


class HeadReader:
    """Header blocks of one connection to request heads, with three memories of fixed size, emptied when full.

    Whole heads are kept by the bytes of their block until some block changes the dynamic table; then the same bytes could
    mean other fields, and all are dropped. Checked fields are kept by name and value, and facts by the fields that they
    depend on; both never age. So a request that differs from the last one in its trace id costs the reading of that id.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = HeaderDecoder(2 * limits.max_header_list_bytes)
        self._heads: dict[bytes, RequestHead] = {}
        self._texts: dict[Field, _Text] = {}
        self._facts: dict[tuple[Field, ...], Facts] = {}

    def request(self, block: bytes) -> RequestHead:
        """Never raises for a malformed list, which `malformed` tells; ConnectionFailure when the block does not decode."""
        head = self._heads.get(block)
        if head is not None:
            return head
        fields = self._decode(block)
        list_bytes = self._decoder.list_bytes
        if list_bytes > self._limits.max_header_list_bytes:
            return RequestHead(Facts(http_refusal=431))
        try:
            head = self._read(fields)
        except MalformedRequest as error:
            return RequestHead(Facts(malformed=str(error)))
        if not self._decoder.touched_table and max(list_bytes, len(block)) <= _MAX_KEPT_LIST_BYTES:
            _keep(self._heads, block, head, self._limits.max_cached_heads)
        return head

    def trailers(self, block: bytes) -> str:
        """Decode a request's trailers; what is malformed about them, or nothing."""
        try:
            if any(self._text(field).pseudo for field in self._decode(block)):
                return "pseudo-header field in trailers"
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

    def _text(self, field: Field) -> _Text:
        known = self._texts.get(field)
        if known is None:
            known = _checked(field)
            if len(field[0]) + len(field[1]) <= _MAX_KEPT_FIELD_BYTES:
                _keep(self._texts, field, known, _MAX_KEPT_FIELDS)
        return known

    def _read(self, fields: list[Field]) -> RequestHead:
        headers: list[tuple[str, str]] = []
        telling: list[Field] = []
        known = self._texts.get
        for field in fields:
            text, pseudo, tells = known(field) or self._text(field)
            if tells:
                telling.append(field)
            if not pseudo:
                headers.append(text)
            elif headers:
                raise MalformedRequest("pseudo-header field after a regular one")
        key = tuple(telling)
        facts = self._facts.get(key)
        if facts is None:
            facts = _facts([self._text(field) for field in telling])
            if sum(len(name) + len(value) for name, value in telling) <= _MAX_KEPT_LIST_BYTES:
                _keep(self._facts, key, facts, self._limits.max_cached_heads)
        return RequestHead(facts, tuple(headers))


def _keep(memory: dict[_K, _V], key: _K, value: _V, most: int) -> None:
    if len(memory) >= most:
        memory.clear()
    memory[key] = value


def _checked(field: Field) -> _Text:
    name, value = field
    pseudo = name[:1] == b":"
    if pseudo and name not in _PSEUDO:
        raise MalformedRequest("unknown pseudo-header field")
    if not pseudo and not _NAME.fullmatch(name):
        raise MalformedRequest("field name is empty, not a token, or in upper case")
    if not _VALUE.fullmatch(value):
        raise MalformedRequest(f"{name.decode()}: value has a control character or white space around it")
    text = name.decode(), value.decode("utf-8", "surrogateescape")
    return _Text(text, pseudo, pseudo or text[0] in _READ_HERE)


def _facts(telling: list[_Text]) -> Facts:
    """Raises MalformedRequest."""
    pseudo: dict[str, str] = {}
    special: dict[str, str] = {}
    for (name, value), is_pseudo, _ in telling:
        if not is_pseudo:
            _note(special, name, value)
        elif name in pseudo:
            raise MalformedRequest(f"{name}: repeated")
        else:
            pseudo[name] = value
    method, path = _request_line(pseudo)
    length = special.get("content-length")
    if length is not None and not _DIGITS.fullmatch(length):
        raise MalformedRequest("content-length: not a number")
    timeout_s, bad_timeout = _timeout(special.get("grpc-timeout"))
    return Facts(
        path=path,
        method=method,
        authority=pseudo.get(":authority", ""),
        content_length=-1 if length is None else int(length),
        timeout_s=timeout_s,
        bad_timeout=bad_timeout,
        encoding=special.get("grpc-encoding", "identity"),
        accepts_gzip="gzip" in [name.strip() for name in special.get("grpc-accept-encoding", "").split(",")],
        http_refusal=_refusal(method, special.get("content-type", "")),
    )


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


def _request_line(pseudo: dict[str, str]) -> tuple[str, str]:
    """Method and path; the rules of RFC 9113, sections 8.3.1 and 8.5."""
    method, path = pseudo.get(":method", ""), pseudo.get(":path", "")
    if not method:
        raise MalformedRequest(":method: missing or empty")
    if method == "CONNECT":
        if ":scheme" in pseudo or ":path" in pseudo or not pseudo.get(":authority"):
            raise MalformedRequest("CONNECT: expected :authority alone")
        return method, ""
    if not pseudo.get(":scheme"):
        raise MalformedRequest(":scheme: missing or empty")
    if not path.startswith("/") and (method, path) != ("OPTIONS", "*"):
        raise MalformedRequest(":path: missing, empty or without a leading slash")
    return method, path


def _timeout(value: str | None) -> tuple[float | None, str]:
    """Seconds, or why there are none."""
    if value is None:
        return None, ""
    try:
        return grpc.timeout_s(value), ""
    except ValueError as error:
        return None, str(error)


def _refusal(method: str, content_type: str) -> int:
    # PROTOCOL-HTTP2.md: "gRPC servers SHOULD respond with HTTP status of 415" to any other content-type.
    if not grpc.is_grpc(content_type):
        return 415
    return 0 if method == "POST" else 405
