"""What RFC 9113 says about frames that no client may send: the code of the GOAWAY, or of the RST_STREAM."""

import pytest

from epp.http2 import Connection, ErrorCode, Limits
from epp.http2 import frames as wire
from epp.http2.frames import frame
from tests.support.http2_peer import Frame, RawClient, Recorder, errors, message, parse

PROTOCOL, SIZE, FLOW, CLOSED = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(wire.DATA, 0, 0, b"x"), PROTOCOL),
        (frame(wire.DATA, 0, 9, b"x"), PROTOCOL),
        (frame(wire.DATA, wire.PADDED, 1, b"\x05abc"), PROTOCOL),
        (frame(wire.DATA, wire.PADDED, 1, b""), SIZE),
        (frame(wire.HEADERS, wire.END_HEADERS, 0, b"\x82"), PROTOCOL),
        (frame(wire.HEADERS, wire.END_HEADERS, 2, b"\x82"), PROTOCOL),
        (frame(wire.HEADERS, wire.END_HEADERS | wire.PADDED, 3, b"\xff\x82"), PROTOCOL),
        (frame(wire.HEADERS, wire.END_HEADERS | wire.PRIORITY_FLAG, 3, b"\x00\x00"), SIZE),
        (frame(wire.HEADERS, wire.END_HEADERS | wire.PRIORITY_FLAG, 3, b"\x00\x00\x00\x03\x00\x82"), PROTOCOL),
        (frame(wire.HEADERS, 0, 3, b"\x82") + frame(wire.PING, 0, 0, bytes(8)), PROTOCOL),
        (frame(wire.HEADERS, 0, 3, b"\x82") + frame(wire.CONTINUATION, wire.END_HEADERS, 5, b"\x82"), PROTOCOL),
        (frame(wire.HEADERS, wire.END_HEADERS, 3, b"\xff\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(wire.HEADERS, wire.END_HEADERS, 3, b"\x82\x20"), ErrorCode.COMPRESSION_ERROR),
        (frame(wire.CONTINUATION, wire.END_HEADERS, 1, b"\x82"), PROTOCOL),
        (frame(wire.PRIORITY, 0, 0, bytes(5)), PROTOCOL),
        (frame(wire.PRIORITY, 0, 9, bytes(4)), SIZE),
        (frame(wire.PRIORITY, 0, 9, b"\x00\x00\x00\x09\x00"), PROTOCOL),
        (frame(wire.RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
        (frame(wire.RST_STREAM, 0, 9, bytes(4)), PROTOCOL),
        (frame(wire.RST_STREAM, 0, 1, bytes(3)), SIZE),
        (frame(wire.SETTINGS, 0, 1), PROTOCOL),
        (frame(wire.SETTINGS, 0, 0, bytes(5)), SIZE),
        (frame(wire.SETTINGS, wire.ACK, 0, bytes(6)), SIZE),
        (wire.settings([(wire.SETTINGS_ENABLE_PUSH, 2)]), PROTOCOL),
        (wire.settings([(wire.SETTINGS_INITIAL_WINDOW_SIZE, 2**31)]), FLOW),
        (wire.settings([(wire.SETTINGS_MAX_FRAME_SIZE, 16_383)]), PROTOCOL),
        (wire.settings([(wire.SETTINGS_MAX_FRAME_SIZE, 2**24)]), PROTOCOL),
        (frame(wire.PUSH_PROMISE, wire.END_HEADERS, 1, bytes(5)), PROTOCOL),
        (frame(wire.PING, 0, 0, bytes(7)), SIZE),
        (frame(wire.PING, 0, 1, bytes(8)), PROTOCOL),
        (frame(wire.GOAWAY, 0, 1, bytes(8)), PROTOCOL),
        (frame(wire.GOAWAY, 0, 0, bytes(7)), SIZE),
        (frame(wire.WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
        (frame(wire.WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
        (frame(wire.WINDOW_UPDATE, 0, 9, b"\x00\x00\x00\x01"), PROTOCOL),
        (wire.window_update(0, 2**31 - 1), FLOW),
        (frame(wire.DATA, 0, 1, bytes(65_537)), SIZE),
    ],
)
def test_connection_error(bad: bytes, code: ErrorCode) -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)

    client.send(bad)

    assert errors(client.frames())[-1] == (wire.GOAWAY, 0, code)
    assert client.connection.closed
    assert client.connection.error is not None
    assert client.connection.error.code is code
    assert application.events[-1] == ("reset", 1, ErrorCode.CANCEL)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(wire.WINDOW_UPDATE, 0, 1, bytes(4)), PROTOCOL),
        (wire.window_update(1, 2**31 - 1), FLOW),
        (frame(wire.PRIORITY, 0, 1, bytes(4)), SIZE),
        (frame(wire.PRIORITY, 0, 1, b"\x00\x00\x00\x01\x00"), PROTOCOL),
        (frame(wire.HEADERS, wire.END_HEADERS, 1, b""), PROTOCOL),
        (frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 1, b"\x82"), PROTOCOL),
    ],
)
def test_stream_error_leaves_the_other_streams_alone(bad: bytes, code: ErrorCode) -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.open(3)

    client.send(bad)
    client.data(3, message(b"alive"))

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, code)]
    assert application.events[2:] == [("reset", 1, code), ("message", 3, b"alive")]
    assert client.connection.open_streams == 1


def test_setting_that_overflows_the_window_of_a_stream_is_a_connection_error() -> None:
    client = RawClient(Recorder())
    client.open(1)
    client.send(wire.window_update(1, 2**31 - 1 - 65_535))

    client.send(wire.settings([(wire.SETTINGS_INITIAL_WINDOW_SIZE, 65_536)]))

    assert errors(client.frames()) == [(wire.GOAWAY, 0, FLOW)]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", wire.PREFACE[:-1] + b"x"])
def test_another_protocol_is_turned_away(start: bytes) -> None:
    connection = Connection(Recorder(), 0.0)
    connection.receive(start, 0.0)

    assert errors(list(parse(connection.data_to_send())))[-1][2] == PROTOCOL
    assert connection.closed


@pytest.mark.parametrize("first", [frame(wire.PING, 0, 0, bytes(8)), wire.SETTINGS_ACK])
def test_settings_must_come_first(first: bytes) -> None:
    connection = Connection(Recorder(), 0.0)
    connection.receive(wire.PREFACE + first, 0.0)

    assert errors(list(parse(connection.data_to_send()))) == [(wire.GOAWAY, 0, PROTOCOL)]


def test_greeting_announces_the_limits() -> None:
    limits = Limits(max_concurrent_streams=7, stream_window_bytes=70_000, connection_window_bytes=100_000)
    client = RawClient(Recorder(), limits=limits)

    settings = dict(wire.SETTING.iter_unpack(client.greeting[0].payload))
    assert settings == {3: 7, 4: 70_000, 5: limits.max_frame_bytes, 6: limits.max_header_list_bytes}
    assert client.greeting[1] == Frame(wire.WINDOW_UPDATE, 0, 0, (100_000 - 65_535).to_bytes(4, "big"))
    assert client.greeting[2] == Frame(wire.SETTINGS, wire.ACK, 0, b"")


def test_ping_is_answered_and_its_answer_is_not() -> None:
    client = RawClient(Recorder())
    client.send(frame(wire.PING, 0, 0, b"12345678"), frame(wire.PING, wire.ACK, 0, b"87654321"))

    assert client.frames() == [Frame(wire.PING, wire.ACK, 0, b"12345678")]


def test_unknown_frames_flags_settings_and_the_reserved_bit_are_ignored() -> None:
    application = Recorder()
    client = RawClient(application)
    client.send(frame(0x42, 0xFF, 77, b"whatever"), wire.settings([(0x99, 5)]))
    client.send(frame(wire.HEADERS, wire.END_HEADERS | 0x40, 0x8000_0001, client.block()))

    assert [event[:2] for event in application.events] == [("open", 1)]
    assert errors(client.frames()) == []


def test_priority_is_ignored_on_idle_open_and_closed_streams() -> None:
    application = Recorder(echo=True)
    client = RawClient(application)
    client.open(1, end=True)
    priority = b"\x80\x00\x00\x07\x10"
    for stream_id in (1, 3, 99):
        client.send(frame(wire.PRIORITY, 0, stream_id, priority))
    flags = wire.END_HEADERS | wire.PRIORITY_FLAG | wire.PADDED | wire.END_STREAM
    client.send(frame(wire.HEADERS, flags, 3, b"\x02" + priority + client.block() + b"\x00\x00"))

    assert [event[:2] for event in application.events[2:]] == [("open", 3), ("half_close", 3)]
    assert errors(client.frames()) == []


def test_header_block_in_many_frames_is_one_block() -> None:
    application = Recorder()
    client = RawClient(application)
    block = client.block(("x-long", "v" * 500))
    parts = [block[i : i + 60] for i in range(0, len(block), 60)]
    client.send(frame(wire.HEADERS, wire.END_STREAM, 1, parts[0]))
    for part in parts[1:-1]:
        client.send(frame(wire.CONTINUATION, 0, 1, part))
    client.send(frame(wire.CONTINUATION, wire.END_HEADERS, 1, parts[-1]))

    assert [event[0] for event in application.events] == ["open", "half_close"]
    assert dict(application.streams[1].headers)["x-long"] == "v" * 500


def test_reply_header_block_larger_than_the_peers_frames_is_continued() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    application.streams[1].send_headers([("x-long", "v" * 40_000)])

    frames = client.frames()
    assert [(f.kind, f.flags) for f in frames] == [
        (wire.HEADERS, 0),
        (wire.CONTINUATION, 0),
        (wire.CONTINUATION, wire.END_HEADERS),
    ]
    fields = dict(client.decoder.decode(b"".join(f.payload for f in frames)))
    assert fields["x-long"] == "v" * 40_000


def test_nothing_is_heard_after_a_failure() -> None:
    application = Recorder()
    client = RawClient(application)
    client.send(frame(wire.PUSH_PROMISE, 0, 1, b""))
    client.open(1)

    assert application.events == []
    assert [f.kind for f in client.frames()] == [wire.GOAWAY]
