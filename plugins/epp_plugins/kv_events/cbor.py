"""Canonical CBOR (RFC 7049 section 3.9) of what block hashes are made of: numbers, bytes, texts, sequences, None."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_UINT: Final = 0
_NEGATIVE: Final = 1
_BYTES: Final = 2
_TEXT: Final = 3
_ARRAY: Final = 4
_NULL: Final = b"\xf6"
_BOOLS: Final = (b"\xf4", b"\xf5")


def dumps(value: object) -> bytes:
    """Raises TypeError for a value that no block hash is made of."""
    return b"".join(_pieces(value))


def _pieces(value: object) -> Iterator[bytes]:
    if value is None:
        yield _NULL
    elif isinstance(value, bool):
        yield _BOOLS[value]
    elif isinstance(value, int):
        yield _head(_UINT, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
    elif isinstance(value, bytes):
        yield _head(_BYTES, len(value))
        yield value
    elif isinstance(value, str):
        text = value.encode()
        yield _head(_TEXT, len(text))
        yield text
    elif isinstance(value, tuple | list):
        yield _head(_ARRAY, len(value))
        for member in value:
            yield from _pieces(member)
    else:
        raise TypeError(f"{type(value).__name__} is no part of a block hash")


def _head(major: int, number: int) -> bytes:
    """The shortest form, as canonical CBOR wants."""
    kind = major << 5
    if number < 24:
        return bytes((kind | number,))
    if number < 1 << 8:
        return struct.pack(">BB", kind | 24, number)
    if number < 1 << 16:
        return struct.pack(">BH", kind | 25, number)
    if number < 1 << 32:
        return struct.pack(">BI", kind | 26, number)
    if number < 1 << 64:
        return struct.pack(">BQ", kind | 27, number)
    raise TypeError("a number of more than 64 bits is no part of a block hash")
