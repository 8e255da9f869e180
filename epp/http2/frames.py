"""The frame layer: numbers of RFC 9113 sections 4 and 6, and the few frames that a server writes. No state."""

from struct import Struct

from epp.http2.errors import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
STREAM_ID_MASK = 0x7FFF_FFFF  # the reserved bit is ignored when received (section 4.1)

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

SETTINGS_HEADER_TABLE_SIZE = 0x1
SETTINGS_ENABLE_PUSH = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS = 0x3
SETTINGS_INITIAL_WINDOW_SIZE = 0x4
SETTINGS_MAX_FRAME_SIZE = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE = 0x6

HEADER = Struct(">HBBBI")
"""Length as its upper 16 and lower 8 bits, type, flags, stream id with the reserved bit."""
SETTING = Struct(">HI")
UINT32 = Struct(">I")
GOAWAY_HEAD = Struct(">II")
DATA_WITH_MESSAGE = Struct(">HBBBIBI")
"""A DATA frame's header and the gRPC prefix (compressed flag, length) in one go."""

SETTINGS_ACK = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
PING_ACK_HEADER = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00"
PING_HEADER = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00"


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, UINT32.pack(code))


def window_update(stream_id: int, increment_bytes: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, UINT32.pack(increment_bytes))


def goaway(last_stream_id: int, code: ErrorCode, debug: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, GOAWAY_HEAD.pack(last_stream_id, code) + debug.encode("utf-8", "replace")[:256])


def settings(values: list[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in values))


def header_block(stream_id: int, block: bytes, flags: int, max_frame_bytes: int) -> bytes:
    """HEADERS, followed by CONTINUATIONs where the block is larger than the peer's frames may be."""
    if len(block) <= max_frame_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[i : i + max_frame_bytes] for i in range(0, len(block), max_frame_bytes)]
    written = [frame(HEADERS, flags, stream_id, parts[0])]
    written += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    written.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(written)
