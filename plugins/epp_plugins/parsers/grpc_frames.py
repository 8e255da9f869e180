"""gRPC messages in a byte stream: one flag byte, four bytes of length (big-endian), the message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

HEAD_BYTES: Final = 5
MAX_MESSAGE_BYTES: Final = 4 << 20


def frame(message: bytes) -> bytes:
    """`message`, uncompressed, as it goes over the wire."""
    return b"".join((b"\x00", len(message).to_bytes(4), message))


def only_message(body: bytes) -> bytes | None:
    """The message of a body that holds exactly one; None when it does not or when that is compressed."""
    if len(body) < HEAD_BYTES or body[0] != 0 or int.from_bytes(body[1:5]) != len(body) - HEAD_BYTES:
        return None
    return body[HEAD_BYTES:]


class FrameReader:
    """Takes a response in any split. Messages that are compressed or over MAX_MESSAGE_BYTES are left out."""

    __slots__ = ("_kept", "_skip")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._skip = 0  # bytes still to come of a message that is left out

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The messages that `chunk` completes."""
        if self._skip:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
        self._kept += chunk
        at = 0
        while len(self._kept) - at >= HEAD_BYTES:
            compressed = self._kept[at] != 0
            size = int.from_bytes(self._kept[at + 1 : at + HEAD_BYTES])
            end = at + HEAD_BYTES + size
            if not compressed and size <= MAX_MESSAGE_BYTES:
                if end > len(self._kept):
                    break
                yield bytes(self._kept[at + HEAD_BYTES : end])
            elif end > len(self._kept):
                self._skip = end - len(self._kept)
                end = len(self._kept)
            at = end
        del self._kept[:at]
