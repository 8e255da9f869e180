"""The encoding half of HPACK, without a table.

Replies carry few and short header fields, mostly the same ones. Written as literals that are never indexed
(RFC 7541, sections 6.2.2 and 6.2.3) they need no encoder state, so whole replies can be prepared once and for all.
The first header block of a connection sets the peer's table size to 0 (section 6.3), which stays right whatever
SETTINGS_HEADER_TABLE_SIZE the client announces, then or later.
"""

EMPTY_TABLE = b"\x20"
"""Dynamic table size update to 0; opens the first header block of a connection."""

STATUS_200 = b"\x88"  # static table, entry 8
_STATUS_NAME = b"\x08"
_CONTENT_TYPE_NAME = b"\x0f\x10"  # static table, entry 31


def integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """RFC 7541, section 5.1; `pattern` fills the bits above the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((pattern | value,))
    encoded = bytearray((pattern | limit,))
    value -= limit
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def text(value: bytes) -> bytes:
    """A string literal without Huffman coding (section 5.2)."""
    return integer(len(value), 7, 0) + value


def field(name: bytes, value: bytes) -> bytes:
    """A field that no hop may put into a table."""
    return b"\x10" + text(name) + text(value)


def status(code: int) -> bytes:
    return STATUS_200 if code == 200 else _STATUS_NAME + text(str(code).encode())


def content_type(value: bytes) -> bytes:
    return _CONTENT_TYPE_NAME + text(value)
