"""The way out: one output buffer per connection, a queue per stream, and the windows between them.

`send` puts DATA straight into the output as long as both windows, the peer's frame size and the output's cap allow; what
does not fit waits in the stream's queue. A stream is in `Link.ready` exactly while it has queued bytes and its own window is
open, so that `pump` touches only streams that can move: each of its steps writes one frame, in turn. Headers and control
frames are never queued. A stream's last frame (trailers) waits for its queue.

Half-closing works like this: `end` marks `local_closed` (nothing more may be said), `end_sent` says END_STREAM is in the
output, `remote_closed` says the client's has come. With both, the stream leaves the table. A call that we end first is
reset with NO_ERROR (RFC 9113, section 8.1: the answer is whole, the rest of the request is not wanted), and its id is
remembered, since frames for it may be on their way.
"""

from abc import ABC, abstractmethod
from math import inf

from epp.http2 import frames, literals
from epp.http2.errors import ConnectionFailure, ErrorCode, StreamFailure
from epp.http2.frames import DATA, END_STREAM, HEADER
from epp.http2.limits import DEFAULT_FRAME_BYTES, DEFAULT_WINDOW_BYTES, MAX_WINDOW_BYTES, Limits


class Link:
    """What the streams of one connection share: output, send window, peer's settings, table of streams, totals."""

    __slots__ = (
        "buffer",
        "cap_bytes",
        "ended_first",
        "failure",
        "forgotten_id",
        "fresh",
        "inbox_bytes",
        "limits",
        "next_call_deadline",
        "now",
        "peer_initial_window",
        "peer_max_frame_bytes",
        "queued_bytes",
        "ready",
        "stream_receive_window",
        "streams",
        "window",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.now = now
        self.buffer = bytearray()
        self.cap_bytes = limits.output_chunk_bytes
        """DATA goes into `buffer` while it holds less than this; 0 while the transport is paused."""
        self.window = DEFAULT_WINDOW_BYTES
        self.peer_initial_window = DEFAULT_WINDOW_BYTES
        self.peer_max_frame_bytes = DEFAULT_FRAME_BYTES
        self.stream_receive_window = limits.stream_window_bytes
        self.streams: dict[int, Stream] = {}
        self.ready: dict[Stream, None] = {}
        self.ended_first: dict[int, None] = {}
        """Streams that ended here before the client ended them, oldest first."""
        self.forgotten_id = 0
        """The highest id that fell out of `ended_first`."""
        self.queued_bytes = 0
        self.inbox_bytes = 0
        """Bytes of unfinished messages, all streams."""
        self.fresh = True
        """No header block has been written yet."""
        self.next_call_deadline = inf
        """No call's deadline is earlier than this."""
        self.failure: ConnectionFailure | None = None
        """Found while sending; the connection ends at its next turn."""

    def write_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        if self.fresh:
            self.fresh = False
            block = literals.EMPTY_TABLE + block
        self.buffer += frames.header_block(stream_id, block, flags, self.peer_max_frame_bytes)

    def pump(self) -> None:
        """Move queued DATA into the output, one frame per stream in turn, while window and cap allow."""
        ready = self.ready
        drained: list[Stream] = []
        while ready and self.window > 0 and len(self.buffer) < self.cap_bytes:
            stream = next(iter(ready))
            del ready[stream]
            if stream.write_queued():
                drained.append(stream)
            if stream.queue and stream.send_window > 0:
                ready[stream] = None
        for stream in drained:
            stream.drained()

    def remember(self, stream_id: int) -> None:
        self.ended_first[stream_id] = None
        if len(self.ended_first) > self.limits.max_remembered_streams:
            oldest = next(iter(self.ended_first))
            del self.ended_first[oldest]
            self.forgotten_id = max(self.forgotten_id, oldest)

    def ended_here_first(self, stream_id: int) -> bool:
        """Whether late frames of this closed stream are excusable; after a long time, the benefit of the doubt."""
        return stream_id in self.ended_first or stream_id <= self.forgotten_id


class Stream(ABC):
    """The HTTP/2 half of a stream; a subclass gives the bytes a meaning."""

    __slots__ = (
        "body_left",
        "congested",
        "end_sent",
        "gone",
        "headers_sent",
        "id",
        "lingers",
        "link",
        "local_closed",
        "queue",
        "reading",
        "receive_window",
        "remote_closed",
        "send_window",
        "tail",
    )

    def __init__(self, link: Link, stream_id: int) -> None:
        self.link = link
        self.id = stream_id
        self.send_window = link.peer_initial_window
        self.receive_window = link.stream_receive_window
        self.queue: bytearray | None = None
        self.tail: bytes | None = None
        """Header block that ends the stream after the queue; empty for END_STREAM on the last DATA."""
        self.body_left = -1
        """Bytes that content-length still announces; -1 when it says nothing."""
        self.headers_sent = False
        self.remote_closed = False
        self.local_closed = False
        self.end_sent = False
        self.gone = False
        self.congested = False
        """`writable` was refused and `drained` is owed."""
        self.reading = True
        """Whether the stream's window is given back to the client."""
        self.lingers = False
        """After our end, keep the stream until the client ends it, rather than reset it."""

    @abstractmethod
    def deliver(self, data: bytes, start: int, stop: int) -> None:
        """DATA without padding: data[start:stop]."""

    @abstractmethod
    def peer_ended(self) -> None:
        """The client's END_STREAM; called once, after the last `deliver`."""

    @abstractmethod
    def cut(self, code: int) -> None:
        """The stream is over in both directions, and not by `end`."""

    @abstractmethod
    def drained(self) -> None:
        """The queue fell to half of its high mark after it was above it."""

    @property
    def writable(self) -> bool:
        """Whether the queue has room; when not, `drained` is called once it has."""
        return not self.congested

    def send(self, prefix: bytes, data: bytes) -> None:
        """Queue `prefix + data` as DATA and write what the windows allow."""
        link = self.link
        if self.queue is None:
            self.queue = bytearray()
        added = len(prefix) + len(data)
        self.queue += prefix
        self.queue += data
        link.queued_bytes += added
        if len(self.queue) > link.limits.max_stream_send_buffer_bytes:
            self.reset(ErrorCode.ENHANCE_YOUR_CALM)
            return
        if link.queued_bytes > link.limits.max_send_buffer_bytes:
            link.failure = ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "client does not read what was sent to it")
        if len(self.queue) > link.limits.stream_send_high_bytes:
            self.congested = True
        if self.send_window > 0:
            link.ready[self] = None
            link.pump()

    def end(self, block: bytes) -> None:
        """Say the last words: trailers, or, when empty, END_STREAM alone. They follow what is queued."""
        self.local_closed = True
        if self.queue:
            self.tail = block
        else:
            self._write_end(block)

    def reset(self, code: int) -> None:
        """RST_STREAM at once; queued DATA is dropped. The subclass learns it by `cut`."""
        if self.gone:
            return
        self.link.buffer += frames.rst_stream(self.id, code)
        self.leave(remember=not self.remote_closed)
        self.cut(code)

    def write_queued(self) -> bool:
        """Write one DATA frame from the queue. Whether the producer may be told that there is room again."""
        link, queue = self.link, self.queue
        if not queue:
            return False
        size = min(len(queue), self.send_window, link.window, link.peer_max_frame_bytes)
        last = size == len(queue) and self.tail is not None
        flags = END_STREAM if last and not self.tail else 0
        link.buffer += HEADER.pack(size >> 8, size & 0xFF, DATA, flags, self.id)
        with memoryview(queue) as view:
            link.buffer += view[:size]
        del queue[:size]
        link.window -= size
        self.send_window -= size
        link.queued_bytes -= size
        if last:
            self._write_end(self.tail or b"", already_flagged=flags != 0)
        elif self.congested and len(queue) <= link.limits.stream_send_high_bytes // 2:
            self.congested = False
            return not self.local_closed
        return False

    def _write_end(self, block: bytes, *, already_flagged: bool = False) -> None:
        link = self.link
        if block:
            link.write_headers(self.id, block, END_STREAM)
        elif not already_flagged:
            link.buffer += frames.frame(DATA, END_STREAM, self.id)
        self.end_sent = True
        self.close_if_done()

    def close_if_done(self) -> None:
        """Leave the table if END_STREAM went both ways, or ours did and this stream does not linger."""
        if not self.end_sent or self.gone:
            return
        if self.remote_closed:
            self.leave(remember=False)
        elif not self.lingers:
            self.link.buffer += frames.rst_stream(self.id, ErrorCode.NO_ERROR)
            self.leave(remember=True)

    def open_send_window(self, increment_bytes: int) -> None:
        """WINDOW_UPDATE. Raises StreamFailure beyond 2^31-1 (RFC 9113, section 6.9.1)."""
        self.send_window += increment_bytes
        if self.send_window > MAX_WINDOW_BYTES:
            raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, "stream window exceeds 2^31-1")
        if self.queue and self.send_window > 0:
            self.link.ready[self] = None

    def pause_reading(self) -> None:
        """Stop giving the window back: the client may send at most what is left of it."""
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.replenish()

    def replenish(self) -> None:
        """Give the receive window back if half of it is used and more is wanted."""
        full = self.link.limits.stream_window_bytes
        if self.reading and not self.remote_closed and not self.local_closed and self.receive_window <= full // 2:
            self.link.buffer += frames.window_update(self.id, full - self.receive_window)
            self.receive_window = full

    def leave(self, *, remember: bool) -> None:
        """Out of every table, buffers dropped."""
        link = self.link
        self.gone = self.local_closed = True
        link.streams.pop(self.id, None)
        link.ready.pop(self, None)
        if self.queue:
            link.queued_bytes -= len(self.queue)
        self.queue = None
        self.tail = None
        if remember:
            link.remember(self.id)
