"""The core as server and the `h2` library as client, in any interleaving of everything that both ends and the pipes can do.

Each run ends by letting everything through: then all messages must have arrived both ways, and nothing may be left.
"""

from __future__ import annotations

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from epp.http2 import Connection, ErrorCode, GrpcStream, Limits, Status
from epp.http2 import frames as wire
from tests.support.http2_peer import REQUEST, Frame, message, parse

MAX_STREAMS = 5
MESSAGE_BYTES = 3000
HIGH_BYTES = 2000
CHUNK_BYTES = 1500
INITIAL_WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
picks = st.integers(0, 100)
amounts = st.sampled_from([1, 8, 9, 10, 100, 1000, 100_000])


class Echo:
    """Says every message back; stops reading while its replies wait, as the ext_proc shell does."""

    def __init__(self, server: Server, stream: GrpcStream) -> None:
        self.server = server
        self.stream = stream
        self.heard: list[bytes] = []
        self.over = False

    def on_message(self, body: bytes) -> None:
        assert not self.over
        self.heard.append(body)
        if not self.stream.send_message(body):
            self.stream.pause_reading()

    def on_half_close(self) -> None:
        assert not self.over
        self.over = True
        self.stream.finish()

    def on_reset(self, code: int) -> None:
        assert not self.over
        self.over = True

    def on_writable(self) -> None:
        assert not self.over
        self.stream.resume_reading()

    def finish(self) -> None:
        if not self.over:
            self.over = True
            self.stream.finish(Status.PERMISSION_DENIED, "not you")

    def reset(self) -> None:
        if not self.over:
            self.stream.reset(ErrorCode.CANCEL)


class Server:
    """The application: one Echo for each call."""

    def __init__(self) -> None:
        self.calls: dict[int, Echo] = {}
        self.crashes: list[Exception] = []

    def on_open(self, stream: GrpcStream) -> Echo:
        call = self.calls[stream.id] = Echo(self, stream)
        return call

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        self.crashes.append(error)


class Call:
    """A call as the client sees it."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.unsent = bytearray()
        self.ended = False
        self.received = b""
        self.unread_bytes = 0
        self.status: bytes | None = None
        self.reset_by_us = False
        self.reset_by_server = False
        self.told_otherwise = False
        """The server was made to end it before it had said everything."""

    @property
    def over(self) -> bool:
        """The client can do nothing more with it."""
        return self.reset_by_us or self.reset_by_server


class Interleaving(RuleBasedStateMachine):
    """Two pipes between an `h2` client and the core; every rule is one thing that somebody does."""

    @initialize(window=st.sampled_from([1, 40, 700, 10_000]), client_window=st.sampled_from([1, 300, 65_535]))
    def connect(self, window: int, client_window: int) -> None:
        self.limits = Limits(
            max_concurrent_streams=MAX_STREAMS,
            stream_window_bytes=window,
            connection_window_bytes=65_535,
            stream_send_high_bytes=HIGH_BYTES,
            output_chunk_bytes=CHUNK_BYTES,
            max_output_bytes=100_000,
            max_frame_bytes=16_384,
            max_remembered_streams=3,
        )
        self.now = 0.0
        self.server = Server()
        self.connection = Connection(self.server, self.now, limits=self.limits)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.client.initiate_connection()
        self.client.update_settings({INITIAL_WINDOW: client_window})
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.goaways: list[Frame] = []
        self.calls: dict[int, Call] = {}
        self.pings_sent = self.pongs = self.passed_bytes = 0
        for _ in range(3):  # both ends have acknowledged each other's settings
            self.to_server_passes(1 << 20)
            self.to_client_passes(1 << 20)

    # --- the pipes -----------------------------------------------------------------------------------------------------

    @rule(size=amounts)
    def to_server_passes(self, size: int) -> None:
        self.to_server += self.client.data_to_send()
        piece = bytes(self.to_server[:size])
        del self.to_server[:size]
        self.passed_bytes += len(piece)
        self.connection.receive(piece, self.now)

    @rule(size=amounts)
    def to_client_passes(self, size: int) -> None:
        self.to_client += self.connection.data_to_send()
        whole = 0
        for frame in parse(bytes(self.to_client)):
            after = whole + wire.HEADER_BYTES + len(frame.payload)
            if whole and after > size:
                break
            whole = after
            if frame.kind == wire.GOAWAY:  # `h2` takes it for the end of everything, which RFC 9113 does not say
                self.goaways.append(frame)
                continue
            for event in self.client.receive_data(wire.frame(frame.kind, frame.flags, frame.stream_id, frame.payload)):
                self._on_event(event)
        del self.to_client[:whole]
        self.passed_bytes += whole

    @rule()
    def transport_is_full(self) -> None:
        self.connection.pause_writing()

    @rule()
    def transport_has_room(self) -> None:
        self.connection.resume_writing()

    @rule(seconds=st.sampled_from([0.01, 0.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.connection.expire(self.now)

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, h2.events.DataReceived):
            call = self.calls[event.stream_id]
            call.received += event.data
            call.unread_bytes += event.flow_controlled_length
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.calls[event.stream_id].status = dict(event.headers).get(b"grpc-status")
        elif isinstance(event, h2.events.StreamReset):
            self.calls[event.stream_id].reset_by_server = True

    # --- the client ----------------------------------------------------------------------------------------------------

    def _open_calls(self) -> dict[int, Call]:
        return {stream_id: call for stream_id, call in self.calls.items() if not call.ended and not call.over}

    @precondition(lambda self: not self.goaways and self.client.open_outbound_streams < MAX_STREAMS)
    @rule(times=st.integers(1, 3), at_once=st.booleans())
    def opens(self, times: int, at_once: bool) -> None:
        for _ in range(min(times, MAX_STREAMS - self.client.open_outbound_streams)):
            stream_id = self.client.get_next_available_stream_id()
            self.client.send_headers(stream_id, REQUEST)
            self.calls[stream_id] = Call()
        self._arrive(at_once)

    @precondition(lambda self: self._open_calls())
    @rule(
        which=picks,
        size=st.sampled_from([0, 1, 10, 400, MESSAGE_BYTES]),
        piece=st.sampled_from([3, 100, 1 << 20, 1 << 20]),
        padding=st.booleans(),
        at_once=st.sampled_from([True, True, False]),
    )
    def sends(self, which: int, size: int, piece: int, padding: bool, at_once: bool) -> None:
        stream_id, call = self._pick(which)
        body = bytes([stream_id & 0xFF, size & 0xFF]) * (size // 2)
        call.messages.append(body)
        call.unsent += message(body)
        self._send_piece(stream_id, call, piece, padding=padding)
        self._arrive(at_once)

    @precondition(lambda self: self._open_calls())
    @rule(which=picks, piece=amounts)
    def sends_more(self, which: int, piece: int) -> None:
        stream_id, call = self._pick(which)
        self._send_piece(stream_id, call, piece, padding=False)

    @precondition(lambda self: self._open_calls())
    @rule(which=picks)
    def ends(self, which: int) -> None:
        stream_id, call = self._pick(which)
        if not call.unsent:
            self.client.end_stream(stream_id)
            call.ended = True

    @precondition(lambda self: self._open_calls())
    @rule(which=picks, at_once=st.booleans())
    def resets(self, which: int, at_once: bool) -> None:
        stream_id, call = self._pick(which)
        self.client.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        call.reset_by_us = True
        self._arrive(at_once)

    @precondition(lambda self: self.calls)
    @rule(which=picks, part=st.sampled_from([1, 50, 100_000]))
    def reads(self, which: int, part: int) -> None:
        """What was read is given back to the windows, little by little."""
        stream_id, call = list(self.calls.items())[which % len(self.calls)]
        self._acknowledge(stream_id, call, part)

    @rule(size=st.sampled_from([0, 1, 250, 20_000, 65_535]))
    def changes_settings(self, size: int) -> None:
        self.client.update_settings({INITIAL_WINDOW: size, h2.settings.SettingCodes.MAX_FRAME_SIZE: 16_384 + size})

    @rule()
    def pings(self) -> None:
        self.client.ping(b"any eight"[:8])
        self.pings_sent += 1

    def _arrive(self, at_once: bool) -> None:
        if at_once:
            self.to_server_passes(1 << 20)

    def _pick(self, which: int) -> tuple[int, Call]:
        calls = list(self._open_calls().items())
        return calls[which % len(calls)]

    def _send_piece(self, stream_id: int, call: Call, size: int, *, padding: bool) -> None:
        room = self.client.local_flow_control_window(stream_id)
        pad = 7 if padding and room > 20 else None
        size = min(size, len(call.unsent), room - (8 if pad else 0), self.client.max_outbound_frame_size - 8)
        if size > 0:
            self.client.send_data(stream_id, bytes(call.unsent[:size]), pad_length=pad)
            del call.unsent[:size]

    def _acknowledge(self, stream_id: int, call: Call, size: int) -> None:
        size = min(size, call.unread_bytes)
        if size:
            call.unread_bytes -= size
            self.client.acknowledge_received_data(size, stream_id)

    # --- the server ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.server.calls)
    @rule(which=picks, how=st.sampled_from(["finish", "reset"]))
    def server_ends_a_call(self, which: int, how: str) -> None:
        stream_id, call = list(self.server.calls.items())[which % len(self.server.calls)]
        if not call.over:
            self.calls[stream_id].told_otherwise = True
            (call.finish if how == "finish" else call.reset)()

    @rule(really=st.sampled_from([False, False, False, True]))
    def server_drains(self, really: bool) -> None:
        if really:
            self.connection.go_away(self.now)

    # --- what holds always ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        if not hasattr(self, "connection"):
            return
        assert self.connection.error is None
        assert self.server.crashes == []
        assert self.connection.open_streams <= MAX_STREAMS

    @invariant()
    def buffers_are_bounded(self) -> None:
        if not hasattr(self, "connection"):
            return
        # What a stream may hold: its window unread, its high mark, and the reply that crossed it.
        stream_bytes = self.limits.stream_window_bytes + HIGH_BYTES + 2 * MESSAGE_BYTES + 10
        output_bytes = CHUNK_BYTES + MESSAGE_BYTES + 20_000
        assert self.connection.buffered_bytes <= MAX_STREAMS * stream_bytes + output_bytes + 16_384 + 9

    # --- the end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "connection"):
            return
        self.connection.resume_writing()
        self.client.update_settings({INITIAL_WINDOW: 65_535})
        self._let_everything_through()
        self._check_calls()
        if not self.goaways:
            self._check_that_windows_are_whole()
        assert self.pongs == self.pings_sent
        assert self.client.outbound_flow_control_window == self.connection._receive_window
        assert self.client.inbound_flow_control_window == self.connection._link.window
        assert (self.connection.open_streams, self.connection.buffered_bytes) == (0, 0)
        self.nothing_is_wrong()

    def _let_everything_through(self) -> None:
        """Until nobody has anything left to say."""
        passed = -1
        while self.passed_bytes != passed:
            passed = self.passed_bytes
            for stream_id, call in self._open_calls().items():
                self._send_piece(stream_id, call, 1 << 20, padding=False)
                if not call.unsent:
                    self.client.end_stream(stream_id)
                    call.ended = True
            self.to_server_passes(1 << 20)
            self.to_client_passes(1 << 20)
            for stream_id, call in self.calls.items():
                self._acknowledge(stream_id, call, 1 << 20)
            self.to_server_passes(1 << 20)
        assert set(self._open_calls()) <= self._ignored(), "the exchange does not come to its end"

    def _ignored(self) -> set[int]:
        """Calls that the client began when the server had already left."""
        last_id = min((int.from_bytes(frame.payload[:4], "big") for frame in self.goaways), default=1 << 31)
        return {stream_id for stream_id in self.calls if stream_id > last_id}

    def _check_calls(self) -> None:
        ignored = self._ignored()
        for stream_id, call in self.calls.items():
            if stream_id in ignored:
                assert stream_id not in self.server.calls
                continue
            if stream_id not in self.server.calls:
                assert call.reset_by_us
                continue
            heard = self.server.calls[stream_id].heard
            assert heard == call.messages[: len(heard)]
            echoed = b"".join(map(message, call.messages))
            assert echoed.startswith(call.received)
            if not call.reset_by_us and not call.told_otherwise:
                assert heard == call.messages
                assert call.received == echoed
                assert call.status == b"0"

    def _check_that_windows_are_whole(self) -> None:
        """More than a connection's window goes both ways: nothing of it was lost on calls that ended early."""
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, REQUEST)
        call = self.calls[stream_id] = Call()
        if self.limits.stream_window_bytes >= 700:
            call.messages = [bytes(MESSAGE_BYTES)] * 25
        call.unsent += b"".join(map(message, call.messages))
        self._let_everything_through()
        assert call.received == b"".join(map(message, call.messages))


Interleaving.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
test_any_interleaving_keeps_every_byte_and_leaves_nothing = Interleaving.TestCase
