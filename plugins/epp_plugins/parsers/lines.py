"""Whole lines out of a byte stream that comes in any split, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_LINE_BYTES: Final = 4 << 20


class MarkedLines:
    """Gives the lines that contain `mark`; others cost a search only.

    Lines over MAX_LINE_BYTES, their line feed counted, are dropped.
    """

    __slots__ = ("_mark", "_partial", "_too_long")

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._partial = bytearray()
        self._too_long = False

    def passes(self, chunk: bytes) -> bool:
        """Whether `feed` would neither give nor keep anything, as with most chunks: whole lines without the mark."""
        return not self._partial and not self._too_long and chunk.endswith(b"\n") and self._mark not in chunk

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The marked lines that `chunk` completes, without their line feeds."""
        last = chunk.rfind(b"\n") + 1
        if last == 0:
            self._keep(chunk)
            return
        first = 0
        if self._partial or self._too_long:
            first = chunk.index(b"\n") + 1
            line = self._take(chunk[:first])
            if self._mark in line:
                yield line.rstrip(b"\r\n")
        if chunk.find(self._mark, first, last) >= 0:
            for line in chunk[first:last].split(b"\n"):
                if self._mark in line and len(line) < MAX_LINE_BYTES:
                    yield line.rstrip(b"\r")
        if last < len(chunk):
            self._keep(chunk[last:])

    def rest(self) -> bytes:
        """The last line so far, when it has no line feed yet."""
        return bytes(self._partial)

    def _keep(self, piece: bytes) -> None:
        if self._too_long or len(self._partial) + len(piece) > MAX_LINE_BYTES:
            self._too_long = True
            self._partial.clear()
        else:
            self._partial += piece

    def _take(self, piece: bytes) -> bytes:
        self._keep(piece)
        line = bytes(self._partial)
        self._partial.clear()
        self._too_long = False
        return line
