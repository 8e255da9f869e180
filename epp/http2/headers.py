"""Header blocks in: from HPACK bytes to fields, on `hpack`'s table and Huffman code.

`hpack.Decoder` costs about 20 µs for the dozen indexed fields of a gateway's request, and 30 µs with one field that is new:
more than everything else that this room does for a stream. So the block is walked here (RFC 7541, section 6), while `hpack`
keeps what is intricate: the dynamic table with its evictions, and the Huffman code. An indexed field is one look-up in that
table; a string that has been decoded before is remembered by its encoded bytes, since an encoder whose table is small
sends the same few literals over and over. A property test holds the result against `hpack.Decoder` itself: same fields,
same table, same refusals, for well-formed blocks and for any bytes.

`touched_table` tells the caller whether a block changed the table: as long as none did, equal bytes mean equal fields, and
what was made of them may be kept by their bytes.
"""

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from epp.http2.errors import ConnectionFailure, ErrorCode

Field = tuple[bytes, bytes]
FIELD_OVERHEAD_BYTES = 32  # RFC 9113, section 6.5.2
_MAX_TABLE_BYTES = HeaderTable.DEFAULT_SIZE  # SETTINGS_HEADER_TABLE_SIZE is left at its default
_MAX_INTEGER_BYTES = 5  # prefix and uint32, as hpack has it
_MAX_KNOWN_STRINGS = 512
_MAX_KNOWN_STRING_BYTES = 128


class HeaderDecoder:
    """One connection's decoder. `max_list_bytes` is the size beyond which decoding stops and the table is lost."""

    def __init__(self, max_list_bytes: int) -> None:
        self.table = HeaderTable()
        self._max_list_bytes = max_list_bytes
        self._known_strings: dict[bytes, bytes] = {}
        self.list_bytes = 0
        """Decoded size of the last block."""
        self.touched_table = False
        """Whether the last block inserted into the dynamic table or resized it."""

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block. Raises ConnectionFailure; the connection's header state is unusable then."""
        self.touched_table = False
        self.list_bytes = 0
        try:
            return self._walk(block)
        except HPACKError as error:
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, "header block does not decode") from error

    def _walk(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        entry = self.table.get_by_index
        size = pos = 0
        end = len(block)
        while pos < end:
            first = block[pos]
            if first >= 0x80:
                index, pos = (first & 0x7F, pos + 1) if first != 0xFF else _integer(block, pos, 0x7F)
                field = entry(index)
            elif first & 0xE0 == 0x20:
                pos = self._resize(block, pos, at_start=not fields)
                continue
            else:
                field, pos = self._literal(block, pos, first)
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
            if size > self._max_list_bytes:
                message = f"header list exceeds {self._max_list_bytes} bytes"
                raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, message)
            fields.append(field)
        self.list_bytes = size
        return fields

    def _literal(self, block: bytes, pos: int, first: int) -> tuple[Field, int]:
        """A field with content, inserted into the table where it says so (RFC 7541, section 6.2)."""
        index, pos = _integer(block, pos, 0x3F if first & 0x40 else 0x0F)
        if index:
            name = self.table.get_by_index(index)[0]
        else:
            name, pos = self._string(block, pos)
        value, pos = self._string(block, pos)
        if first & 0x40:
            self.touched_table = True
            self.table.add(name, value)
        return (name, value), pos

    def _string(self, block: bytes, pos: int) -> tuple[bytes, int]:
        """RFC 7541, section 5.2."""
        length, start = _integer(block, pos, 0x7F)
        stop = start + length
        if stop > len(block):
            raise _truncated()
        encoded = block[start:stop]
        if block[pos] < 0x80:
            return encoded, stop
        known = self._known_strings.get(encoded)
        if known is None:
            known = decode_huffman(encoded)
            if length <= _MAX_KNOWN_STRING_BYTES:
                if len(self._known_strings) >= _MAX_KNOWN_STRINGS:
                    self._known_strings.clear()
                self._known_strings[encoded] = known
        return known, stop

    def _resize(self, block: bytes, pos: int, *, at_start: bool) -> int:
        size, stop = _integer(block, pos, 0x1F)
        if not at_start or size > _MAX_TABLE_BYTES:
            message = "table size update after a field or beyond SETTINGS_HEADER_TABLE_SIZE"
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, message)
        self.touched_table = True
        self.table.maxsize = size
        return stop


def _integer(block: bytes, pos: int, mask: int) -> tuple[int, int]:
    """Value and the position after it (RFC 7541, section 5.1)."""
    end = len(block)
    if pos >= end:
        raise _truncated()
    value = block[pos] & mask
    pos += 1
    if value < mask:
        return value, pos
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        if pos >= end:
            break
        byte = block[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
    raise _truncated()


def _truncated() -> ConnectionFailure:
    return ConnectionFailure(
        ErrorCode.COMPRESSION_ERROR, "header block ends inside a field or holds an endless integer"
    )
