"""One HTTP/2 connection of a gRPC server as a state machine. No I/O and no clock: bytes and the time in, bytes out.

How to drive it. The shell that owns a socket calls

- `receive(data, now)` with what it read; the application's handlers are called from inside it, in wire order;
- `data_to_send()` afterwards, and whenever a handler spoke at another time, until it returns nothing; one write per turn;
- `pause_writing()` / `resume_writing()` as the transport asks; while paused, DATA stays in the streams' bounded queues;
- `expire(now)` about once a second, and at `next_deadline()` where calls' deadlines shall be exact;
- `connection_lost()` when the socket is gone. When `closed` is true, it writes what is left and closes the socket.

Where things are. This file is the way in: frames, the order they may come in, windows of what we receive, SETTINGS, PING,
GOAWAY. `streams` is the way out: queues, windows of what we send, the end of streams. `grpc_stream` turns DATA into
messages. `requests` says which header lists are well-formed, `headers` decodes them, `floods` counts abuse, `clocks` knows
what is due and `limits` holds every number.

The states of a connection:

    preface   24 fixed bytes, then SETTINGS and nothing else (RFC 9113, section 3.4)
    open      any frame; inside an unfinished header block only its CONTINUATION (section 6.10)
    draining  GOAWAY(2^31-1) and a PING are out; new streams are still served, since the client may not know (section 6.8)
    leaving   GOAWAY(last id) is out: newer streams are ignored, older ones run to their end
    over      after a failure, or when the last stream of a leaving connection has ended

`_expected` is the one frame type allowed next (SETTINGS, CONTINUATION), or -1 for any; one comparison per frame covers the
order of frames. Anything a peer does wrong is raised as ConnectionFailure (becomes GOAWAY) or StreamFailure (becomes
RST_STREAM) and is caught in `_consume`, once.

The states of a stream are told apart by where its id is: above `_last_id` it is idle; in the table it is open or half-closed;
in `Link.ended_first` we ended it and excuse frames that were on their way; in `_skipped` it was never used; else both sides
ended it, and further frames are STREAM_CLOSED (section 5.1).

What makes it cheap. All frames of one read are parsed in one loop over the one buffer, without a frame object; a DATA frame
that holds exactly one message costs one slice and three calls. Answers of all streams are appended to one bytearray, which
is handed out whole. The fixed header blocks of answers are prepared bytes, written without HPACK state (`literals`).
Windows are large and given back in bulk. Equal header blocks share one checked head, as long as the table stands still; a
block that changes the table costs only what it brings along (`headers`, `requests`). Time-outs cost nothing per frame: the
times are compared in `expire`.

What bounds it. Unfinished frames by the frame size, header blocks by their own limits and frame count, unfinished messages
by a total, queues by one limit each and a total, output towards a peer that does not read by `max_output_bytes`, ids that
we remember by number, work without use by `floods`. A SETTINGS frame is applied by the last value of each setting, so that
thousands of window changes in one frame touch every stream once.
"""

from collections.abc import Callable
from math import inf

from epp.http2 import frames
from epp.http2.clocks import Clocks
from epp.http2.errors import ConnectionFailure, ErrorCode, Http2Error, StreamFailure
from epp.http2.floods import FloodGuard
from epp.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_BYTES,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    SETTING,
    SETTINGS,
    STREAM_ID_MASK,
    UINT32,
)
from epp.http2.grpc import Status
from epp.http2.grpc_stream import Application, GrpcStream
from epp.http2.limits import DEFAULT_FRAME_BYTES, DEFAULT_WINDOW_BYTES, MAX_FRAME_BYTES, MAX_WINDOW_BYTES, Limits
from epp.http2.requests import Facts, HeadReader, RequestHead
from epp.http2.streams import Link, Stream

_unpack_header = HEADER.unpack_from
_ANY = -1
_MAX_STREAM_ID = STREAM_ID_MASK
_MAX_SKIPPED = 16
_DRAIN_PING = b"llmdrain"
_ALIVE_PING = b"llmalive"


class Connection:
    """The server's end of one connection; see the module for how to drive it."""

    def __init__(self, application: Application, now: float, *, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.error: ConnectionFailure | None = None
        """Why the connection failed, for the log; None while it lives and after an orderly end."""
        self._application = application
        self._link = Link(self.limits, now)
        self._streams = self._link.streams
        # Until the client acknowledges a smaller window, it may use the default one (RFC 9113, section 6.9.2).
        self._link.stream_receive_window = max(self.limits.stream_window_bytes, DEFAULT_WINDOW_BYTES)
        self._clocks = Clocks(self.limits, now)
        self._floods = FloodGuard(self.limits, now)
        self._heads = HeadReader(self.limits)
        self._receive_window = self.limits.connection_window_bytes
        self._max_frame_bytes = self.limits.max_frame_bytes
        self._window_low = self.limits.connection_window_bytes // 2
        self._stream_low = self.limits.stream_window_bytes // 2
        self._partial = bytearray()
        self._needed = len(PREFACE)
        """Bytes that `_partial` must hold before anything can be done with it."""
        self._preface_seen = False
        self._expected = SETTINGS
        self._block = bytearray()
        self._block_stream_id = 0
        self._block_flags = 0
        self._block_frames = 0
        self._last_id = 0
        self._opened = 0
        self._skipped: list[range] = []
        self._leaving_after = _MAX_STREAM_ID
        self._draining = False
        self._over = False
        self._paused = False
        self._taken_bytes = 0
        self._handlers: list[Callable[[int, int, bytes], None]] = [
            self._on_push_promise,  # DATA does not come this way
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        ]
        self._greet()

    def _greet(self) -> None:
        limits = self.limits
        self._link.buffer += frames.settings(
            [
                (frames.SETTINGS_MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
                (frames.SETTINGS_INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
                (frames.SETTINGS_MAX_FRAME_SIZE, limits.max_frame_bytes),
                (frames.SETTINGS_MAX_HEADER_LIST_SIZE, limits.max_header_list_bytes),
            ]
        )
        extra = limits.connection_window_bytes - DEFAULT_WINDOW_BYTES
        if extra:
            self._link.buffer += frames.window_update(0, extra)

    # What the shell asks and says.

    @property
    def closed(self) -> bool:
        """Whether the socket shall be closed once `data_to_send` has been written."""
        if self._over:
            return True
        return self._leaving_after != _MAX_STREAM_ID and not self._link.streams

    @property
    def open_streams(self) -> int:
        return len(self._link.streams)

    @property
    def buffered_bytes(self) -> int:
        """Everything held for this peer: unfinished frames, blocks and messages, queues, output."""
        link = self._link
        return len(self._partial) + len(self._block) + link.inbox_bytes + link.queued_bytes + len(link.buffer)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the client, cut anywhere. Calls the handlers; never raises because of the bytes."""
        if self._over:
            return
        self._link.now = self._clocks.last_received = now
        if now >= self._floods.window_ends:
            self._floods.restart(now)
        if not self._preface_seen:
            self._partial += data
            if not self._take_preface():
                return
            data = bytes(self._partial)
            self._partial.clear()
        elif self._partial:
            if len(self._partial) + len(data) < self._needed:
                self._partial += data
                return
            data = b"".join((self._partial, data))
            self._partial.clear()
        self._consume(data)

    def data_to_send(self) -> bytearray:
        """What to write now, about `output_chunk_bytes` at most; empty when there is nothing or the transport is paused."""
        link = self._link
        if link.failure is not None:
            self._fail(link.failure)
        if self._paused and not self._over:
            return bytearray()
        if link.ready:
            link.pump()
        output = link.buffer
        if output:
            link.buffer = bytearray()
            self._taken_bytes += len(output)
        return output

    def pause_writing(self) -> None:
        """The transport is full: hold DATA back."""
        self._paused = True
        self._link.cap_bytes = 0

    def resume_writing(self) -> None:
        self._paused = False
        self._link.cap_bytes = self.limits.output_chunk_bytes

    def go_away(self, now: float) -> None:
        """Begin an orderly end: calls that run, and those the client starts before it hears of it, are served."""
        if self._draining or self._over:
            return
        self._draining = True
        self._clocks.drain_due = now + self.limits.drain_grace_s
        self._link.buffer += frames.goaway(_MAX_STREAM_ID, ErrorCode.NO_ERROR)
        self._link.buffer += frames.PING_HEADER + _DRAIN_PING

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, message: str = "") -> None:
        """End now: GOAWAY, and every open call is cut."""
        self._fail(ConnectionFailure(code, message))

    def connection_lost(self) -> None:
        """The socket is gone; open calls hear `on_reset`."""
        self._over = True
        self._cut_streams(ErrorCode.CANCEL)
        self._link.buffer.clear()

    def next_deadline(self) -> float:
        """When `expire` will have something to do, as far as it is known; inf when nothing is."""
        return min(self._link.next_call_deadline, self._clocks.next_due())

    def expire(self, now: float) -> None:
        """Do what is due: end calls past their deadline, and the connection past one of its time-outs."""
        if self._over:
            return
        self._link.now = now
        try:
            self._expire_connection(now)
        except ConnectionFailure as error:
            self._fail(error)
            return
        if now >= self._link.next_call_deadline:
            self._expire_calls(now)

    # Bytes to frames.

    def _take_preface(self) -> bool:
        seen = bytes(self._partial[: len(PREFACE)])
        if not PREFACE.startswith(seen):
            self._fail(ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 connection preface"))
            return False
        if len(seen) < len(PREFACE):
            return False
        del self._partial[: len(PREFACE)]
        self._preface_seen = True
        self._needed = 0
        return True

    def _consume(self, data: bytes) -> None:
        try:
            pos = self._parse(data)
        except ConnectionFailure as error:
            self._fail(error)
            return
        if self._over:
            return
        link = self._link
        if pos:
            self._clocks.unfinished_since = inf
        if pos < len(data):
            self._keep(data, pos)
        if link.ready:
            link.pump()
        if self._paused and len(link.buffer) > self.limits.max_output_bytes:
            self._fail(ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "client does not read the answers it provokes"))

    def _keep(self, data: bytes, pos: int) -> None:
        """Hold the beginning of a frame until the rest comes."""
        self._partial += memoryview(data)[pos:]
        self._needed = HEADER_BYTES
        if len(self._partial) >= HEADER_BYTES:
            self._needed += int.from_bytes(self._partial[:3], "big")
        if self._clocks.unfinished_since == inf:
            self._clocks.unfinished_since = self._link.now

    def _parse(self, data: bytes) -> int:
        """Every whole frame in `data`; where the first unfinished one begins. Raises ConnectionFailure."""
        max_frame_bytes = self._max_frame_bytes
        pos, end = 0, len(data)
        high: int
        low: int
        while end - pos >= HEADER_BYTES:
            high, low, kind, flags, stream_id = _unpack_header(data, pos)
            length = high << 8 | low
            if length > max_frame_bytes:
                raise ConnectionFailure(
                    ErrorCode.FRAME_SIZE_ERROR, f"{length} bytes in a frame; at most {max_frame_bytes}"
                )
            start = pos + HEADER_BYTES
            stop = start + length
            if stop > end:
                break
            if self._expected != _ANY and kind != self._expected:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"frame type {kind}; expected {self._expected}")
            stream_id &= STREAM_ID_MASK
            try:
                if kind == DATA:
                    self._on_data(stream_id, flags, data, start, stop)
                elif kind <= CONTINUATION:
                    self._handlers[kind](stream_id, flags, data[start:stop])
                else:
                    self._floods.control()
            except StreamFailure as error:
                self._break_stream(stream_id, error)
            if self._over:
                return stop
            pos = stop
        return pos

    def _break_stream(self, stream_id: int, error: StreamFailure) -> None:
        self._floods.stream_error()
        stream = self._link.streams.get(stream_id)
        if stream is not None:
            stream.reset(error.code)

    # DATA.

    def _on_data(self, stream_id: int, flags: int, data: bytes, start: int, stop: int) -> None:
        length = stop - start
        self._receive_window = left = self._receive_window - length
        if left <= self._window_low:
            self._renew_window()
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_late(stream_id)
            return
        if stream.remote_closed:
            raise StreamFailure(ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        stream.receive_window = left = stream.receive_window - length
        if left < 0:
            raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the stream's window")
        if flags & PADDED:
            start, stop = _without_padding(data, start, stop)
        if stream.body_left >= 0:
            _count_body(stream, stop - start, last=flags & END_STREAM)
        if flags & END_STREAM:
            stream.remote_closed = True
            stream.deliver(data, start, stop)
            self._end_of_request(stream)
            return
        if start == stop:
            self._floods.empty_data()
        stream.deliver(data, start, stop)
        if left <= self._stream_low and not stream.gone:
            stream.replenish()

    def _end_of_request(self, stream: Stream) -> None:
        if not stream.gone:
            stream.peer_ended()
            stream.close_if_done()

    def _renew_window(self) -> None:
        if self._receive_window < 0:
            raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the connection's window")
        full = self.limits.connection_window_bytes
        self._link.buffer += frames.window_update(0, full - self._receive_window)
        self._receive_window = full

    def _check_late(self, stream_id: int) -> None:
        """A frame for a stream that is not in the table (RFC 9113, section 5.1). Raises ConnectionFailure unless excusable."""
        self._check_not_idle(stream_id)
        if not self._link.ended_here_first(stream_id):
            raise ConnectionFailure(ErrorCode.STREAM_CLOSED, f"frame for stream {stream_id}, which is closed")
        self._floods.control()

    def _check_not_idle(self, stream_id: int) -> None:
        if stream_id > self._last_id or not stream_id & 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"frame for stream {stream_id}, which is idle")

    # Header blocks.

    def _on_headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}: not a client's id")
        if flags & (PADDED | PRIORITY_FLAG):
            payload = self._bare_headers(stream_id, flags, payload)
        if len(payload) > self.limits.max_header_block_bytes:
            raise _block_too_large()
        if flags & END_HEADERS:
            self._on_block(stream_id, flags, payload)
            return
        self._block += payload
        self._block_stream_id, self._block_flags, self._block_frames = stream_id, flags, 1
        self._clocks.block_since = self._link.now
        self._expected = CONTINUATION

    def _bare_headers(self, stream_id: int, flags: int, payload: bytes) -> bytes:
        """The block without padding and priority."""
        start, stop = 0, len(payload)
        if flags & PADDED:
            start, stop = _without_padding(payload, start, stop)
        if flags & PRIORITY_FLAG:
            if stop - start < 5:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            _check_dependency(stream_id, payload[start : start + 5], ConnectionFailure)
            start += 5
        return payload[start:stop]

    def _on_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        if self._expected != CONTINUATION or stream_id != self._block_stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        self._block += payload
        self._block_frames += 1
        limits = self.limits
        if len(self._block) > limits.max_header_block_bytes or self._block_frames > limits.max_continuation_frames:
            raise _block_too_large()
        if flags & END_HEADERS:
            block = bytes(self._block)
            self._block.clear()
            self._clocks.block_since = inf
            self._expected = _ANY
            self._on_block(stream_id, self._block_flags, block)

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        if stream_id > self._last_id:
            self._on_request(stream_id, flags, block)
            return
        stream = self._link.streams.get(stream_id)
        if stream is None:
            self._heads.skip(block)
            if any(stream_id in skipped for skipped in self._skipped):
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} opened after a higher one")
            self._check_late(stream_id)
            return
        malformed = self._heads.trailers(block)
        if stream.remote_closed:
            raise StreamFailure(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if malformed or not flags & END_STREAM:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, malformed or "second HEADERS without END_STREAM")
        if stream.body_left >= 0:
            _count_body(stream, 0, last=True)
        stream.remote_closed = True
        self._end_of_request(stream)

    def _on_request(self, stream_id: int, flags: int, block: bytes) -> None:
        link = self._link
        if stream_id > self._last_id + 2:
            self._skipped = [*self._skipped[-_MAX_SKIPPED + 1 :], range(self._last_id + 1 | 1, stream_id, 2)]
        self._last_id = stream_id
        head = self._heads.request(block)
        if stream_id > self._leaving_after:
            link.remember(stream_id)
            return
        if head.facts.malformed:
            self._turn_away(stream_id, flags, ErrorCode.PROTOCOL_ERROR)
            return
        if len(link.streams) >= self.limits.max_concurrent_streams:
            self._turn_away(stream_id, flags, ErrorCode.REFUSED_STREAM)
            return
        if flags & END_STREAM and head.facts.content_length > 0:
            # Malformed, but the client has said all it will say: an answer ends the stream (RFC 9113, section 8.1.1).
            self._floods.stream_error()
            head = RequestHead(Facts(method=head.facts.method, http_refusal=400))
        self._opened += 1
        if self._opened >= self.limits.max_streams_per_connection:
            self.go_away(link.now)
        stream = GrpcStream(link, stream_id, head, self._application)
        link.streams[stream_id] = stream
        if flags & END_STREAM:
            stream.remote_closed = True
            stream.start()
            self._end_of_request(stream)
        else:
            stream.start()

    def _turn_away(self, stream_id: int, flags: int, code: ErrorCode) -> None:
        self._floods.stream_error()
        self._link.buffer += frames.rst_stream(stream_id, code)
        if not flags & END_STREAM:
            self._link.remember(stream_id)

    # The other frames.

    def _on_push_promise(self, stream_id: int, flags: int, payload: bytes) -> None:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_priority(self, stream_id: int, flags: int, payload: bytes) -> None:
        """Ignored, as RFC 9113 section 5.3 allows, once it is well-formed."""
        self._floods.control()
        if stream_id == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        # RST_STREAM must not be sent for an idle stream (section 5.1), so there the whole connection has to answer for it.
        failure: type[Http2Error] = StreamFailure if stream_id in self._link.streams else ConnectionFailure
        if len(payload) != 5:
            raise failure(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes; expected 5")
        _check_dependency(stream_id, payload, failure)

    def _on_rst_stream(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes; expected 4")
        self._check_not_idle(stream_id)
        self._floods.control()
        stream = self._link.streams.get(stream_id)
        if stream is None:
            return
        if not stream.headers_sent:
            self._floods.premature_reset()
        stream.leave(remember=False)
        stream.cut(UINT32.unpack(payload)[0])

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        self._floods.settings()
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        if flags & ACK:
            self._on_settings_ack(payload)
            return
        if len(payload) % SETTING.size:
            raise ConnectionFailure(
                ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes; expected a multiple of 6"
            )
        values: dict[int, int] = {}
        for key, value in SETTING.iter_unpack(payload):
            _check_setting(key, value)
            values[key] = value
        self._apply_settings(values)
        self._link.buffer += frames.SETTINGS_ACK
        if self._expected == SETTINGS:
            self._expected = _ANY
            self._clocks.handshake_due = inf

    def _on_settings_ack(self, payload: bytes) -> None:
        if payload or self._expected == SETTINGS:
            code = ErrorCode.FRAME_SIZE_ERROR if payload else ErrorCode.PROTOCOL_ERROR
            raise ConnectionFailure(code, "SETTINGS acknowledgement with a payload or before the client's SETTINGS")
        if self._clocks.settings_due == inf and self.limits.settings_timeout_s:
            return
        self._clocks.settings_due = inf
        link = self._link
        shrink = link.stream_receive_window - self.limits.stream_window_bytes
        if shrink:
            link.stream_receive_window = self.limits.stream_window_bytes
            for stream in link.streams.values():
                stream.receive_window -= shrink
                stream.replenish()

    def _apply_settings(self, values: dict[int, int]) -> None:
        link = self._link
        link.peer_max_frame_bytes = values.get(frames.SETTINGS_MAX_FRAME_SIZE, link.peer_max_frame_bytes)
        window = values.get(frames.SETTINGS_INITIAL_WINDOW_SIZE, link.peer_initial_window)
        change = window - link.peer_initial_window
        link.peer_initial_window = window
        if not change:
            return
        for stream in list(link.streams.values()):
            if stream.send_window + change > MAX_WINDOW_BYTES:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS takes a stream's window beyond 2^31-1")
            stream.send_window += change
            if stream.queue and stream.send_window > 0:
                link.ready[stream] = None
            else:
                link.ready.pop(stream, None)

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id or len(payload) != 8:
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise ConnectionFailure(code, f"PING of {len(payload)} bytes on stream {stream_id}; expected 8 on stream 0")
        self._floods.ping()
        if not flags & ACK:
            self._link.buffer += frames.PING_ACK_HEADER + payload
        elif payload == _DRAIN_PING and self._draining:
            self._leave()

    def _on_goaway(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id or len(payload) < frames.GOAWAY_HEAD.size:
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise ConnectionFailure(code, f"GOAWAY of {len(payload)} bytes on stream {stream_id}; expected >= 8 on 0")
        self._floods.control()
        # It forbids us to open streams, which a server does not do, and announces the end: the same is due from here.
        self.go_away(self._link.now)

    def _on_window_update(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes; expected 4")
        self._floods.control()
        increment = int.from_bytes(payload, "big") & STREAM_ID_MASK
        link = self._link
        if stream_id == 0:
            if not increment:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            link.window += increment
            if link.window > MAX_WINDOW_BYTES:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeds 2^31-1")
            return
        stream = link.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            return
        if not increment:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        stream.open_send_window(increment)

    # The end.

    def _leave(self) -> None:
        self._clocks.drain_due = inf
        if self._leaving_after == _MAX_STREAM_ID:
            self._leaving_after = self._last_id
            self._link.buffer += frames.goaway(self._last_id, ErrorCode.NO_ERROR)

    def _fail(self, error: ConnectionFailure) -> None:
        if self._over:
            return
        self._over = True
        if error.code is not ErrorCode.NO_ERROR:
            self.error = error
        self._link.buffer += frames.goaway(self._last_id, error.code, error.message)
        self._cut_streams(ErrorCode.CANCEL)

    def _cut_streams(self, code: ErrorCode) -> None:
        for stream in list(self._link.streams.values()):
            stream.leave(remember=False)
            stream.cut(code)
        self._partial.clear()
        self._block.clear()

    def _expire_calls(self, now: float) -> None:
        """A scan of all streams, but only when the earliest deadline seen by the last scan has come."""
        link = self._link
        link.next_call_deadline = inf
        for stream in list(link.streams.values()):
            if not isinstance(stream, GrpcStream) or stream.deadline is None:
                continue
            if stream.deadline > now:
                link.next_call_deadline = min(link.next_call_deadline, stream.deadline)
            elif stream.queue:
                # A status would wait behind data that the client does not take.
                stream.reset(ErrorCode.CANCEL)
            else:
                stream.fail(Status.DEADLINE_EXCEEDED, "deadline exceeded")

    def _expire_connection(self, now: float) -> None:
        clocks, link = self._clocks, self._link
        clocks.check_handshake(now)
        clocks.check_unfinished(now)
        held_by_transport = self._paused and bool(link.buffer or link.queued_bytes)
        held_by_window = bool(link.ready) and link.window <= 0
        clocks.check_stalled(now, waiting=held_by_transport or held_by_window, taken_bytes=self._taken_bytes)
        if clocks.ping_is_due(now):
            link.buffer += frames.PING_HEADER + _ALIVE_PING
        if now >= clocks.drain_due:
            self._leave()
        if clocks.idle_too_long(now, idle=not link.streams):
            self.go_away(now)


def _block_too_large() -> ConnectionFailure:
    return ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "header block is too large or in too many frames")


def _without_padding(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """RFC 9113, section 6.1: padding that leaves no room for itself is a connection error."""
    if start == stop:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
    padding = data[start]
    if start + 1 + padding > stop:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
    return start + 1, stop - padding


def _count_body(stream: Stream, size_bytes: int, *, last: int) -> None:
    """RFC 9113, section 8.1.1: content-length is the sum of the DATA payloads without padding."""
    stream.body_left -= size_bytes
    if stream.body_left < 0 or (last and stream.body_left):
        raise StreamFailure(ErrorCode.PROTOCOL_ERROR, "content-length does not match the body")


def _check_dependency(stream_id: int, priority: bytes, failure: type[Http2Error]) -> None:
    """RFC 7540, section 5.3.1; RFC 9113 deprecates priorities but not this duty of the sender."""
    if UINT32.unpack_from(priority)[0] & STREAM_ID_MASK == stream_id:
        raise failure(ErrorCode.PROTOCOL_ERROR, "stream depends on itself")


def _check_setting(key: int, value: int) -> None:
    """RFC 9113, section 6.5.2."""
    if key == frames.SETTINGS_ENABLE_PUSH and value > 1:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}; expected 0 or 1")
    if key == frames.SETTINGS_INITIAL_WINDOW_SIZE and value > MAX_WINDOW_BYTES:
        raise ConnectionFailure(
            ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}; at most 2^31-1"
        )
    if key == frames.SETTINGS_MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
        raise ConnectionFailure(
            ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}; expected 16384 to 16777215"
        )
