"""Header blocks in: from HPACK bytes to fields, through `hpack`, at the price of what is not already known.

`hpack.Decoder` costs about 20 µs for the dozen indexed fields of a gateway's request: more than everything else that this
room does for a stream. So the block is walked here, one representation at a time (RFC 7541, section 6):

- an indexed field is one look-up in the decoder's own table;
- everything that has content (literals with their strings and Huffman codes, insertions, table size updates, and with
  them the whole dynamic table) is handed to `hpack`, one representation at a time, in order.

The table therefore has one owner, and the result is that of `hpack.Decoder` on the whole block (a property test compares
them, tables included). `touched_table` tells the caller whether a block changed the table: as long as none did, equal bytes
mean equal fields, and decoded heads may be kept by their bytes.
"""

from hpack import Decoder, HPACKError, OversizedHeaderListError

from epp.http2.errors import ConnectionFailure, ErrorCode

Field = tuple[bytes, bytes]
FIELD_OVERHEAD_BYTES = 32  # RFC 9113, section 6.5.2
_MAX_INTEGER_BYTES = 5  # prefix and uint32, as hpack has it


class HeaderDecoder:
    """One connection's decoder. `max_list_bytes` is the size beyond which decoding stops and the table is lost."""

    def __init__(self, max_list_bytes: int) -> None:
        self._hpack = Decoder(max_header_list_size=max_list_bytes)
        self._max_list_bytes = max_list_bytes
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
        except OversizedHeaderListError as error:
            raise self._oversized() from error
        except HPACKError as error:
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, "header block does not decode") from error

    def _walk(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        entry = self._hpack.header_table.get_by_index
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
                stop = _literal_end(block, pos, first)
                (header,) = self._hpack.decode(block[pos:stop], raw=True)
                field = (bytes(header[0]), bytes(header[1]))
                pos = stop
                if first & 0x40:
                    self.touched_table = True
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
            if size > self._max_list_bytes:
                raise self._oversized()
            fields.append(field)
        self.list_bytes = size
        return fields

    def _resize(self, block: bytes, pos: int, *, at_start: bool) -> int:
        if not at_start:
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, "table size update after a field")
        _, stop = _integer(block, pos, 0x1F)
        self._hpack.decode(block[pos:stop], raw=True)
        self.touched_table = True
        return stop

    def _oversized(self) -> ConnectionFailure:
        return ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, f"header list exceeds {self._max_list_bytes} bytes")


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


def _literal_end(block: bytes, pos: int, first: int) -> int:
    name_index, pos = _integer(block, pos, 0x3F if first & 0x40 else 0x0F)
    for _ in range(1 if name_index else 2):
        length, pos = _integer(block, pos, 0x7F)
        pos += length
        if pos > len(block):
            raise _truncated()
    return pos


def _truncated() -> ConnectionFailure:
    return ConnectionFailure(
        ErrorCode.COMPRESSION_ERROR, "header block ends inside a field or holds an endless integer"
    )
