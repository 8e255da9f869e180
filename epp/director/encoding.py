"""Request bodies with a content-encoding: read where it is gzip, refused where it is anything else or not wanted."""

from __future__ import annotations

import gzip
import zlib
from typing import Final

from epp.api import Code, RequestError

_GZIP: Final = frozenset(("gzip", "x-gzip"))
# zlib's window size, plus 16 for a gzip header and trailer.
_GZIP_WINDOW_BITS: Final = zlib.MAX_WBITS | 16
# What follows a member is copied for the next one: a megabyte of empty members would take most of a second.
_MOST_MEMBERS: Final = 64


class Encodings:
    """`read`: gzip is understood; else every encoded body is refused. `max_body_bytes` bounds what a body unpacks to."""

    def __init__(self, *, read: bool, max_body_bytes: int) -> None:
        self._read = read
        self._max_body_bytes = max_body_bytes

    def decode(self, body: bytes, encoding: str) -> bytes:
        """The body as it was before `encoding` (a content-encoding). Raises RequestError: 415, 413, or 400 for broken data."""
        name = encoding.strip().lower()
        if name in ("", "identity"):
            return body
        if not self._read or name not in _GZIP:
            allowed = "gzip or none" if self._read else "none"
            raise RequestError(
                Code.UNSUPPORTED_MEDIA_TYPE, f"content-encoding {name[:64]!r} is not accepted; send {allowed}"
            )
        unpacked: list[bytes] = []
        left = self._max_body_bytes
        while body:
            # A gzip body may consist of several members (RFC 1952, section 2.2).
            if len(unpacked) == _MOST_MEMBERS:
                raise RequestError(Code.BAD_REQUEST, f"request body has more than {_MOST_MEMBERS} gzip members")
            unpacker = zlib.decompressobj(_GZIP_WINDOW_BITS)
            try:
                part = unpacker.decompress(body, left + 1)
            except zlib.error:
                raise RequestError(Code.BAD_REQUEST, "request body is not valid gzip") from None
            left -= len(part)
            if left < 0:
                raise RequestError(
                    Code.PAYLOAD_TOO_LARGE, f"request body unpacks to more than {self._max_body_bytes} bytes"
                )
            if not unpacker.eof:
                raise RequestError(Code.BAD_REQUEST, "request body is cut off: its gzip data have no end")
            unpacked.append(part)
            body = unpacker.unused_data
        return b"".join(unpacked)

    def encode(self, body: bytes, encoding: str) -> bytes:
        """`body` under the encoding that `decode` took off."""
        return gzip.compress(body, compresslevel=1) if encoding.strip().lower() in _GZIP else body
