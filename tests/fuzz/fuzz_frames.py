"""Any bytes as a connection: the core answers with frames, never with exceptions, holds little and leaves nothing behind.

The first byte of an input chooses how the rest is delivered: bit 0 a handshake comes before it, bit 1 the transport is full
for its first half, bits 2 and 3 the size of the pieces.
"""

from __future__ import annotations

from collections.abc import Callable

from epp.http2 import Connection, ErrorCode, GrpcStream, Limits, Status
from epp.http2 import frames as wire
from tests.support.http2_peer import parse

PIECE_BYTES = (1 << 20, 1, 7, 100)
HANDSHAKE = wire.PREFACE + wire.settings([]) + wire.SETTINGS_ACK
LIMITS = Limits(
    max_concurrent_streams=20,
    stream_window_bytes=20_000,
    connection_window_bytes=65_535,
    max_message_bytes=30_000,
    max_receive_buffer_bytes=40_000,
    stream_send_high_bytes=2000,
    max_stream_send_buffer_bytes=40_000,
    max_send_buffer_bytes=60_000,
    output_chunk_bytes=4000,
    max_output_bytes=10_000,
    max_header_list_bytes=4000,
    max_header_block_bytes=8000,
    max_frame_bytes=16_384,
    max_remembered_streams=4,
    max_cached_heads=3,
)
# A read may provoke answers before anybody can take them: of all frames, a request of a few bytes gets the longest.
ANSWER_PER_READ = 60


class Handler:
    """Echoes; `/finish` refuses its first message, `/reset` resets, `/pause` reads no more after it."""

    def __init__(self, application: Application, stream: GrpcStream) -> None:
        self.application = application
        self.stream = stream
        self.ended = 0

    def on_message(self, message: bytes) -> None:
        assert not self.ended
        if self.stream.path == "/finish":
            self.ended += 1
            self.stream.finish(Status.PERMISSION_DENIED, "no", [("why-bin", message[:9])])
        elif self.stream.path == "/reset":
            self.stream.reset(ErrorCode.CANCEL)
        else:
            self.stream.send_message(message, compress=self.stream.compress_replies())
            if self.stream.path == "/pause":
                self.stream.pause_reading()

    def on_half_close(self) -> None:
        assert not self.ended
        self.ended += 1
        self.stream.finish()

    def on_reset(self, code: int) -> None:
        assert not self.ended
        self.ended += 1

    def on_writable(self) -> None:
        assert not self.ended
        self.stream.resume_reading()


class Application:
    """Remembers its handlers; a handler that raises is a finding."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []

    def on_open(self, stream: GrpcStream) -> Handler | None:
        if stream.path == "/nothing":
            return None
        handler = Handler(self, stream)
        self.handlers.append(handler)
        return handler

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        raise AssertionError(f"a handler raised: {error!r}") from error


def bound(limits: Limits, read_bytes: int) -> int:
    """The most that a connection may hold after a read of this size."""
    return (
        limits.max_receive_buffer_bytes
        + limits.max_send_buffer_bytes
        + limits.max_stream_send_buffer_bytes
        + limits.max_output_bytes
        + limits.output_chunk_bytes
        + limits.max_frame_bytes
        + limits.max_header_block_bytes
        + ANSWER_PER_READ * read_bytes
    )


def target() -> Callable[[bytes], None]:
    """The function that takes inputs."""
    return one_input


def one_input(data: bytes) -> None:
    if not data:
        return
    options, received = data[0], data[1:]
    if options & 1:
        received = HANDSHAKE + received
    size = PIECE_BYTES[options >> 2 & 3]
    application = Application()
    connection = Connection(application, 0.0, limits=LIMITS)
    written = bytearray()
    if options & 2:
        connection.pause_writing()
    for start in range(0, len(received), size):
        if options & 2 and start >= len(received) // 2:
            connection.resume_writing()
        piece = received[start : start + size]
        connection.receive(piece, start / 1e6)
        written += connection.data_to_send()
        assert connection.buffered_bytes <= bound(LIMITS, len(piece)), connection.buffered_bytes
    connection.resume_writing()
    for now in (5.0, 30.0, 200.0):
        connection.expire(now)
        while output := connection.data_to_send():
            written += output
    assert all(frame.kind <= wire.CONTINUATION for frame in parse(bytes(written)))
    connection.connection_lost()
    assert (connection.open_streams, connection.buffered_bytes) == (0, 0)
    assert all(handler.ended == 1 for handler in application.handlers)
