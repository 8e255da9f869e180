"""How wide and high an image is, from the first bytes of its file: PNG, GIF, JPEG and WebP. Nothing is decoded but headers."""

from __future__ import annotations

import binascii
from typing import Final

# Most formats say it at once; a JPEG may have a thumbnail and a colour profile before it does.
_FIRST_CHARS: Final = 1 << 12
_MORE_CHARS: Final = 1 << 17
_NO_SIZE: Final = (0, 0)
# Markers of JPEG that begin a frame (ITU T.81, table B.1): all C0 to CF but DHT, JPG and DAC.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def size_in_base64(text: bytes | memoryview) -> tuple[int, int]:
    """Width and height in pixels of an image in base64, `/` perhaps as `\\/`; zeros where it cannot be told."""
    view = memoryview(text)
    found = size_of(_decoded(view[:_FIRST_CHARS]))
    if found == _NO_SIZE and len(view) > _FIRST_CHARS and bytes(view[:4]) == b"/9j/":
        found = size_of(_decoded(view[:_MORE_CHARS]))
    return found


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the beginning of a file; zeros where it cannot be told."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data.startswith(b"\xff\xd8"):
        return _size_of_jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        return _size_of_webp(data)
    return _NO_SIZE


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == 0xFF:  # any number of them may stand before a marker
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return _NO_SIZE


def _size_of_webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return _NO_SIZE


def _decoded(text: memoryview) -> bytes:
    """Of what is no base64 nothing."""
    plain = bytes(text).replace(b"\\/", b"/")
    try:
        return binascii.a2b_base64(plain[: len(plain) & ~3])
    except binascii.Error:
        return b""
