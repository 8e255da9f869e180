"""The beginnings of image files, which say how large the image is."""

from __future__ import annotations

import base64
import struct
import zlib


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(40)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0" * 9


def jpeg(width: int, height: int, *, before: int = 0, progressive: bool = False) -> bytes:
    """With so many bytes of other segments before the frame, and everything else that a reader of headers looks at."""
    jfif = b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF\0", 0x0101, 0, 1, 1, 0, 0)
    others = b""
    while before > 0:
        size = min(before, 65_000)
        others += b"\xff\xe1" + struct.pack(">H", size + 2) + b"\xff" * size
        before -= size
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x11\0\2\x11\1\3\x11\1"
    return (
        b"\xff\xd8" + jfif + others + (b"\xff\xc2" if progressive else b"\xff\xc0") + frame + b"\xff\xda" + b"\0" * 99
    )


def webp(width: int, height: int, kind: str = "VP8X") -> bytes:
    bodies = {
        "VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        "VP8L": b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + bytes(5),
        "VP8 ": b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }
    body = bodies[kind]
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind.encode() + struct.pack("<I", len(body)) + body


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
