"""Every limit of a connection, in one place, with its unit and its reason.

The worst a single peer can make one connection hold is about
`max_receive_buffer_bytes + max_send_buffer_bytes + max_output_bytes + max_frame_bytes`,
plus the head of every open stream (`max_concurrent_streams * max_header_list_bytes`), plus about 3 MiB of remembered
headers. How many connections there may be is for the shell to say.
"""

from dataclasses import dataclass, fields
from math import inf

MIB = 1024 * 1024
DEFAULT_WINDOW_BYTES = 65_535  # RFC 9113, section 6.9.2
MAX_WINDOW_BYTES = 2**31 - 1  # RFC 9113, section 6.9.1
DEFAULT_FRAME_BYTES = 16_384  # RFC 9113, section 4.2
MAX_SETTING = 2**32 - 1  # RFC 9113, section 6.5.1
MAX_FRAME_BYTES = 2**24 - 1  # RFC 9113, section 4.2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost. Sizes are bytes, times are seconds, 0 s switches that time-out off.

    Counts that end in `_per_window` are per `flood_window_s`; beyond them the connection ends with ENHANCE_YOUR_CALM.
    A gateway sends all its traffic over a few connections, so they are far above what honest traffic needs, and none lets
    a client burn more than about a tenth of a core. Raises ValueError for a value that the protocol does not allow.
    """

    max_concurrent_streams: int = 4096
    """Open streams; one more is answered REFUSED_STREAM, which a client may retry."""
    max_streams_per_connection: int = 2**29
    """Streams in the life of a connection; then it drains, so that the client opens a fresh one before ids run out."""
    max_frame_bytes: int = 65_536
    """SETTINGS_MAX_FRAME_SIZE: fewer frames for large bodies than with the protocol's 16 KiB."""
    stream_window_bytes: int = MIB
    """SETTINGS_INITIAL_WINDOW_SIZE: most streams end before a WINDOW_UPDATE is due."""
    connection_window_bytes: int = 16 * MIB
    """Unacknowledged DATA on all streams together; replenished when half of it is used."""
    max_header_list_bytes: int = 32_768
    """Decoded size: names + values + 32 each (RFC 9113, section 6.5.2). More is answered 431, twice as much ends all."""
    max_header_block_bytes: int = 65_536
    """Encoded size of HEADERS with its CONTINUATIONs."""
    max_continuation_frames: int = 16
    """Frames of one header block; stops blocks made of empty CONTINUATIONs."""
    max_message_bytes: int = 4 * MIB
    """One gRPC message, after decompression; more is answered RESOURCE_EXHAUSTED."""
    max_receive_buffer_bytes: int = 64 * MIB
    """Unfinished messages of all streams together; the stream that crosses it is answered RESOURCE_EXHAUSTED."""
    stream_send_high_bytes: int = 256 * 1024
    """Queued on one stream: above it `writable` is false until half of it is left."""
    max_stream_send_buffer_bytes: int = 16 * MIB
    """Queued on one stream by a producer that ignores `writable`; the stream is reset beyond it."""
    max_send_buffer_bytes: int = 64 * MIB
    """Queued on all streams together; the connection ends beyond it."""
    output_chunk_bytes: int = 256 * 1024
    """DATA put into the output before the transport takes it; the rest waits in the streams' queues."""
    max_output_bytes: int = MIB
    """Control frames and headers waiting for a paused transport; a peer that makes us answer but does not read ends here."""
    flood_window_s: float = 10.0
    """Length of the window of all `_per_window` counts."""
    max_pings_per_window: int = 20_000
    """2 µs each. gRPC clients probe bandwidth with one PING per round trip, so some hundreds per second are honest."""
    max_settings_per_window: int = 100
    """Each may touch the window of every stream."""
    max_empty_data_per_window: int = 10_000
    """DATA frames without a byte and without END_STREAM: work that never ends a message."""
    max_control_frames_per_window: int = 1_000_000
    """PRIORITY, WINDOW_UPDATE, RST_STREAM, unknown frames and late frames of closed streams together: 1 µs each.
    Some gRPC clients send one WINDOW_UPDATE per message they read."""
    max_premature_resets_per_window: int = 30_000
    """Streams the client resets before we sent a byte (rapid reset, CVE-2023-44487): 30 µs each.
    A gateway whose clients hang up does this honestly, one for one."""
    max_stream_errors_per_window: int = 10_000
    """Streams we had to reset because of the client (CVE-2025-8671), refused ones included."""
    max_remembered_streams: int = 4096
    """Ids of streams that we ended first: their late frames are ignored instead of punished."""
    max_cached_heads: int = 128
    """Decoded request heads kept, each at most 4 KiB decoded."""
    handshake_timeout_s: float = 10.0
    """From the accepted socket to the client's preface and SETTINGS; before them, TLS may take as long for its own."""
    settings_timeout_s: float = 10.0
    """From our SETTINGS to their acknowledgement (SETTINGS_TIMEOUT)."""
    header_block_timeout_s: float = 10.0
    """From the first bytes of an unfinished frame or header block to its last."""
    idle_timeout_s: float = 3600.0
    """Without an open stream; the connection then drains."""
    keepalive_interval_s: float = 60.0
    """Without a received byte; then a PING goes out."""
    keepalive_timeout_s: float = 20.0
    """From that PING to any byte; then the peer counts as gone."""
    write_stall_timeout_s: float = 60.0
    """Output waits and the peer takes none of it (closed window of the connection or full socket).
    An ended connection is cut off after as long."""
    drain_grace_s: float = 1.0
    """From the first GOAWAY to the last one, should the PING between them not be answered; 0 s: none is waited for."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name}: {getattr(self, field.name)} is negative; expected 0 or more")
        for name in ("max_concurrent_streams", "max_header_list_bytes"):
            _between(name, getattr(self, name), 0, MAX_SETTING)
        _between("max_frame_bytes", self.max_frame_bytes, DEFAULT_FRAME_BYTES, MAX_FRAME_BYTES)
        _between("stream_window_bytes", self.stream_window_bytes, 1, MAX_WINDOW_BYTES)
        _between("connection_window_bytes", self.connection_window_bytes, DEFAULT_WINDOW_BYTES, MAX_WINDOW_BYTES)
        _between("max_message_bytes", self.max_message_bytes, 0, 2**32 - 1)
        _between("output_chunk_bytes", self.output_chunk_bytes, 1, inf)
        _between("flood_window_s", self.flood_window_s, 0.001, 86_400.0)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} is outside {low}..{high}")
