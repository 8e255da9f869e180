"""The file that holds one plugin's state. No I/O: bytes out, bytes in.

    llm-epp state 1\\n          what it is, and the version of this format
    {"plugin": ..., ...}\\n     a Header as JSON
    ...                        the plugin's own bytes
    length, checksum           of all of the above: 8 bytes, little-endian, and its 16-byte xxh3

Length and checksum stand at the end, because the plugin's bytes are written while they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from xxhash import xxh3_128

FORMAT: Final = 1
_MAGIC: Final = b"llm-epp state "
_LENGTH_BYTES: Final = 8
_TRAILER_BYTES: Final = _LENGTH_BYTES + xxh3_128().digest_size
_LONGEST_LINE: Final = 4096


class StateFileError(Exception):
    """A file cannot be used; the text says why."""


class Header(msgspec.Struct, frozen=True):
    """Whose state it is. `version` is the plugin's (`StateKeeper.state_version`)."""

    plugin: str
    type: str
    version: int
    written: str = ""  # UTC, ISO 8601
    written_by: str = ""  # version of llm-epp


class Writer:
    """Makes the file's bytes, piece by piece: `begin`, any number of `add`, `end`."""

    def __init__(self) -> None:
        self._checksum = xxh3_128()
        self._length = 0

    def begin(self, header: Header) -> bytes:
        return self.add(_MAGIC + b"%d\n" % FORMAT + msgspec.json.encode(header) + b"\n")

    def add(self, piece: bytes) -> bytes:
        self._checksum.update(piece)
        self._length += len(piece)
        return piece

    def end(self) -> bytes:
        return self._length.to_bytes(_LENGTH_BYTES, "little") + self._checksum.digest()


def read(data: bytes) -> tuple[Header, memoryview]:
    """The header and the plugin's bytes. Raises StateFileError for a file that is foreign, too new or damaged."""
    lines = _lines(data)
    magic = next(lines, b"")
    if not magic.startswith(_MAGIC):
        raise StateFileError("is no state file of llm-epp")
    try:
        format_version = int(magic[len(_MAGIC) :])
    except ValueError:
        raise StateFileError("is damaged: its format has no number") from None
    if format_version > FORMAT:
        raise StateFileError(f"is of format {format_version}; this version reads formats up to {FORMAT}")
    end = len(data) - _TRAILER_BYTES
    trailer = data[max(end, 0) :]
    if end < 0 or int.from_bytes(trailer[:_LENGTH_BYTES], "little") != end:
        raise StateFileError(f"is damaged: it has not the {len(data)} bytes that were written")
    body = memoryview(data)[:end]
    if xxh3_128(body).digest() != trailer[_LENGTH_BYTES:]:
        raise StateFileError("is damaged: its checksum does not match")
    line = next(lines, b"")
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError as error:
        raise StateFileError(f"has a header that cannot be read: {error}") from error
    return header, body[len(magic) + len(line) + 2 :]


def _lines(data: bytes) -> Iterator[bytes]:
    """The lines at the beginning, without their ends."""
    start = 0
    while (end := data.find(b"\n", start, start + _LONGEST_LINE)) >= 0:
        yield data[start:end]
        start = end + 1
