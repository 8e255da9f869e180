"""Reads one HTTP/1.1 response after another from a connection that serves one request at a time. Bytes in, responses out.

Only what fetching a page needs: status, body (content-length, chunked, or until the connection ends), whether the connection
may be used again. Everything malformed or too large raises HttpError; the connection is then good for nothing.
"""

from __future__ import annotations

import enum
import zlib
from typing import Final

import msgspec

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_CHUNK_LINE_BYTES: Final = 1024
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


class HttpError(Exception):
    """What came is not a response that can be used. The text says why."""


class HttpResponse(msgspec.Struct, frozen=True):
    """A complete response; `body` is decoded. `reusable`: the connection may carry another request."""

    status: int
    body: bytes
    reusable: bool


class _State(enum.Enum):
    HEAD = enum.auto()
    LENGTH = enum.auto()
    CHUNK_LINE = enum.auto()
    CHUNK = enum.auto()
    TRAILERS = enum.auto()
    UNTIL_END = enum.auto()


class _Head(msgspec.Struct, frozen=True):
    """What a response head says: the status, where the body ends (None: another head follows), its length, its encoding."""

    status: int
    keep_alive: bool
    gzip: bool
    body: _State | None
    length: int = 0


class ResponseReader:
    """Feed it what arrives. After each response it is ready for the next one."""

    def __init__(self, *, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        # A server's heads are mostly the same, so the last one is not read again.
        self._known_head = b""
        self._head: _Head | None = None
        self._reset()

    def _reset(self) -> None:
        self._state = _State.HEAD
        self._pieces: list[bytes] = []  # what has arrived and is not yet understood
        self._held_bytes = 0
        self._wanted_bytes = 0  # how much must be held before looking again is worth while
        self._buffer = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._needed = 0
        self._status = 0
        self._gzip = False
        self._keep_alive = True

    @property
    def began(self) -> bool:
        """Part of a response has arrived."""
        return self._state is not _State.HEAD or self._held_bytes > 0

    def feed(self, data: bytes) -> HttpResponse | None:
        """The response that `data` completes, if it does. Raises HttpError."""
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._state is _State.UNTIL_END:
            self._check_size(self._held_bytes)
            return None
        if self._held_bytes < self._wanted_bytes:
            return None
        self._buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        self._at = self._wanted_bytes = 0
        response = self._advance()
        if response is None:
            rest = self._buffer[self._at :]
            self._pieces, self._held_bytes = [rest], len(rest)
        self._buffer = b""
        return response

    def end(self) -> HttpResponse | None:
        """The connection has ended: the response that this completes; None when none had begun. Raises HttpError."""
        if self._state is _State.UNTIL_END:
            return self._finish(b"".join(self._pieces), surplus=False)
        if self.began:
            raise HttpError("the connection ended within the response")
        return None

    def _advance(self) -> HttpResponse | None:
        """Understand as much of the buffer as possible."""
        while True:
            match self._state:
                case _State.HEAD:
                    advanced = self._read_head()
                case _State.LENGTH:
                    return self._read_length()
                case _State.CHUNK_LINE:
                    advanced = self._read_chunk_line()
                case _State.CHUNK:
                    advanced = self._read_chunk()
                case _State.TRAILERS:
                    return self._read_trailers()
                case _State.UNTIL_END:
                    self._check_size(len(self._buffer) - self._at)
                    return None
            if not advanced:
                return None

    def _read_head(self) -> bool:
        begin = self._at
        end = self._buffer.find(b"\r\n\r\n", begin)
        if (end if end >= 0 else len(self._buffer)) - begin > MAX_HEAD_BYTES:
            raise HttpError(f"the response head is longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            if not b"HTTP/1.".startswith(self._buffer[begin : begin + 7]):
                raise HttpError(f"not an HTTP response: it begins with {self._buffer[begin : begin + 16]!r}")
            return False
        self._at = end + 4
        text = self._buffer[begin:end]
        head = self._head
        if head is None or text != self._known_head:
            self._head = head = _parse_head(text.decode("latin-1").split("\r\n"))
            self._known_head = text
        self._status, self._keep_alive, self._gzip = head.status, head.keep_alive, head.gzip
        if head.body is not None:
            self._needed = head.length
            self._check_size(head.length)
            self._state = head.body
        return True

    def _read_length(self) -> HttpResponse | None:
        end = self._at + self._needed
        if len(self._buffer) < end:
            self._wanted_bytes = self._needed
            return None
        return self._finish(self._buffer[self._at : end], surplus=len(self._buffer) > end)

    def _read_chunk_line(self) -> bool:
        end = self._buffer.find(b"\r\n", self._at, self._at + MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(self._buffer) - self._at >= MAX_CHUNK_LINE_BYTES:
                raise HttpError("a chunk's first line is too long")
            return False
        size = self._buffer[self._at : end].partition(b";")[0].strip(b" \t")
        if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
            raise HttpError(f"bad chunk size {size[:40]!r}")
        self._at = end + 2
        self._needed = int(size, 16)
        self._check_size(self._body_bytes + self._needed)
        self._state = _State.CHUNK if self._needed else _State.TRAILERS
        return True

    def _read_chunk(self) -> bool:
        end = self._at + self._needed
        if len(self._buffer) < end + 2:
            self._wanted_bytes = self._needed + 2
            return False
        if self._buffer[end : end + 2] != b"\r\n":
            raise HttpError("a chunk does not end where its size says")
        self._chunks.append(self._buffer[self._at : end])
        self._body_bytes += self._needed
        self._at = end + 2
        self._state = _State.CHUNK_LINE
        return True

    def _read_trailers(self) -> HttpResponse | None:
        """No trailers end at once, with an empty line; others end with one. Their content is of no interest."""
        end = self._at if self._buffer.startswith(b"\r\n", self._at) else self._buffer.find(b"\r\n\r\n", self._at)
        if end < 0:
            if len(self._buffer) - self._at > MAX_HEAD_BYTES:
                raise HttpError("the trailers are too long")
            return None
        end += 2 if end == self._at else 4
        return self._finish(b"".join(self._chunks), surplus=len(self._buffer) > end)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_body_bytes:
            raise HttpError(f"the page is larger than {self._max_body_bytes} bytes")

    def _finish(self, body: bytes, *, surplus: bool) -> HttpResponse:
        if surplus:
            raise HttpError("data follows the response that nobody asked for")
        if self._gzip:
            body = _gunzip(body, self._max_body_bytes)
        response = HttpResponse(self._status, body, self._keep_alive)
        self._reset()
        return response


def _parse_head(lines: list[str]) -> _Head:
    version, _, rest = lines[0].partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise HttpError(f"bad status line {lines[0][:80]!r}")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(f"bad header line {line[:80]!r}")
        name, value = name.lower(), value.strip(" \t")
        if name == "content-length" and fields.get(name, value) != value:
            raise HttpError("two different content lengths")
        fields[name] = value
    connection = fields.get("connection", "").lower()
    keep_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
    return _head_with_body(int(code), fields, keep_alive=keep_alive)


def _head_with_body(status: int, fields: dict[str, str], *, keep_alive: bool) -> _Head:
    """RFC 9112 section 6.3, for a response to GET."""
    gzip = _is_gzip(fields.get("content-encoding", ""))
    if 100 <= status < 200:
        if status == 101:
            raise HttpError("the server switched protocols")
        return _Head(status, keep_alive, gzip, None)  # an interim response
    if status in (204, 304):
        return _Head(status, keep_alive, gzip, _State.LENGTH)
    if encoding := fields.get("transfer-encoding", "").lower():
        if encoding != "chunked":
            raise HttpError(f"unknown transfer encoding {encoding[:40]!r}")
        return _Head(status, keep_alive, gzip, _State.CHUNK_LINE)
    length = fields.get("content-length")
    if length is None:
        return _Head(status, False, gzip, _State.UNTIL_END)
    if not (length.isascii() and length.isdigit()) or len(length) > 15:
        raise HttpError(f"bad content length {length[:40]!r}")
    return _Head(status, keep_alive, gzip, _State.LENGTH, int(length))


def _is_gzip(encoding: str) -> bool:
    """Nobody asked for an encoding; gzip is understood all the same, because some proxies apply it regardless."""
    encoding = encoding.lower()
    if encoding in ("gzip", "x-gzip"):
        return True
    if encoding not in ("", "identity"):
        raise HttpError(f"unknown content encoding {encoding[:40]!r}")
    return False


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        page = inflater.decompress(body, max_bytes)
    except zlib.error as error:
        raise HttpError(f"bad gzip content: {error}") from error
    if inflater.unconsumed_tail:
        raise HttpError(f"the page is larger than {max_bytes} bytes")
    if not inflater.eof:
        raise HttpError("the gzip content ends too early")
    if inflater.unused_data:
        raise HttpError("more data follows the gzip content")  # a second member, or anything
    return page
