"""Time-outs on the caller's clock: what `expire` ends, and that `next_deadline` announces it."""

from collections.abc import Callable

import pytest

from epp.http2 import Connection, ErrorCode, Limits
from epp.http2 import frames as wire
from epp.http2.frames import frame
from tests.support.http2_peer import Frame, RawClient, Recorder, errors, message, parse

NO_KEEPALIVE = Limits(keepalive_interval_s=0)


@pytest.mark.parametrize("sent", [b"", wire.PREFACE[:10], wire.PREFACE])
def test_handshake(sent: bytes) -> None:
    connection = Connection(Recorder(), 100.0)
    connection.receive(sent, 100.0)
    assert connection.next_deadline() == 110.0
    connection.expire(109.9)
    assert not connection.closed

    connection.expire(110.0)

    assert errors(list(parse(connection.data_to_send()))) == [(wire.GOAWAY, 0, ErrorCode.PROTOCOL_ERROR)]
    assert connection.closed


def test_settings_never_acknowledged() -> None:
    connection = Connection(Recorder(), 0.0)
    connection.receive(wire.PREFACE + wire.settings([]), 1.0)
    connection.expire(10.0)

    assert errors(list(parse(connection.data_to_send()))) == [(wire.GOAWAY, 0, ErrorCode.SETTINGS_TIMEOUT)]


def test_unfinished_header_block() -> None:
    client = RawClient(Recorder())
    client.send(frame(wire.HEADERS, 0, 1, b"\x82"))
    client.now = 9.0
    client.send(frame(wire.CONTINUATION, 0, 1, b"\x82"))
    client.expire_at(10.0)

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.ENHANCE_YOUR_CALM)]


def test_unfinished_frame() -> None:
    client = RawClient(Recorder())
    client.send(frame(wire.PING, 0, 0, bytes(8))[:-1])
    client.expire_at(10.0)

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.ENHANCE_YOUR_CALM)]


def test_stream_of_frames_whose_cuts_fall_badly_is_not_unfinished() -> None:
    client = RawClient(Recorder())
    client.open(1)
    body = frame(wire.DATA, 0, 1, message(bytes(100))) * 30
    for start in range(0, len(body) - 50, 100):
        client.now += 1.0
        client.send(body[start : start + 100])
        client.connection.expire(client.now)

    assert errors(client.frames()) == []


def test_silent_client_is_asked_and_then_given_up() -> None:
    client = RawClient(Recorder())
    assert client.connection.next_deadline() == 60.0
    client.expire_at(60.0)
    assert [f.kind for f in client.frames()] == [wire.PING]
    assert client.connection.next_deadline() == 80.0
    client.expire_at(79.9)
    assert not client.connection.closed

    client.expire_at(80.0)

    assert client.connection.closed


def test_any_byte_shows_that_the_client_lives() -> None:
    client = RawClient(Recorder())
    client.expire_at(60.0)
    client.now = 61.0
    client.send(frame(wire.PING, wire.ACK, 0, b"llmalive"))
    client.expire_at(100.0)

    assert not client.connection.closed
    assert client.connection.next_deadline() == 121.0


def test_idle_connection_drains() -> None:
    client = RawClient(Recorder(), limits=Limits(keepalive_interval_s=0, idle_timeout_s=30))
    client.expire_at(1.0)
    assert client.connection.next_deadline() == 31.0
    client.expire_at(30.9)
    assert client.frames() == []
    client.expire_at(31.0)
    client.expire_at(32.0)

    assert [(f.kind, f.code) for f in client.frames() if f.kind == wire.GOAWAY] == [(wire.GOAWAY, 0)] * 2
    assert client.connection.closed
    assert client.connection.error is None


def test_connection_with_a_call_is_not_idle() -> None:
    client = RawClient(Recorder(), limits=Limits(keepalive_interval_s=0, idle_timeout_s=30))
    client.expire_at(1.0)
    client.open(1)
    client.expire_at(1000.0)

    assert errors(client.frames()) == []


def pause(client: RawClient) -> None:
    client.connection.pause_writing()


def leave_window_closed(client: RawClient) -> None:
    client.send(wire.window_update(1, 10**6))


@pytest.mark.parametrize("stall", [pause, leave_window_closed])
def test_client_that_takes_nothing_is_given_up(stall: Callable[[RawClient], None]) -> None:
    application = Recorder()
    client = RawClient(application, limits=NO_KEEPALIVE)
    client.open(1)
    stall(client)
    application.streams[1].send_message(bytes(100_000))
    client.frames()
    client.expire_at(1.0)
    client.expire_at(60.9)
    assert not client.connection.closed

    client.expire_at(61.0)

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.ENHANCE_YOUR_CALM)]
    assert application.events[-1] == ("reset", 1, ErrorCode.CANCEL)


def test_slow_reader_that_takes_something_is_kept() -> None:
    application = Recorder()
    client = RawClient(application, limits=NO_KEEPALIVE)
    client.open(1)
    client.send(wire.window_update(1, 10**6))
    application.streams[1].send_message(bytes(100_000))
    for now in range(0, 300, 30):
        client.expire_at(float(now))
        client.send(wire.window_update(0, 100))
        client.frames()

    assert not client.connection.closed


def test_deadline_of_a_call() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1, ("grpc-timeout", "500m"))
    client.open(3, ("grpc-timeout", "2S"))
    client.open(5)
    assert client.connection.next_deadline() == 0.5
    client.frames()

    client.expire_at(0.5)

    frames = client.frames()
    assert client.fields_of(frames[0])["grpc-status"] == "4"
    assert frames[1] == Frame(wire.RST_STREAM, 0, 1, bytes(4))
    assert application.events[3:] == [("reset", 1, ErrorCode.CANCEL)]
    assert client.connection.next_deadline() == 2.0


def test_deadline_of_a_call_whose_client_does_not_read_resets_it() -> None:
    application = Recorder()
    client = RawClient(application, settings={wire.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.open(1, ("grpc-timeout", "1S"))
    application.streams[1].send_message(b"x")
    application.streams[1].finish()
    client.expire_at(1.0)

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.CANCEL)]
    assert client.connection.buffered_bytes == 0


def test_time_outs_of_zero_are_off() -> None:
    limits = Limits(
        handshake_timeout_s=0, settings_timeout_s=0, keepalive_interval_s=0, idle_timeout_s=0, header_block_timeout_s=0
    )
    connection = Connection(Recorder(), 0.0, limits=limits)
    connection.expire(1e9)
    connection.expire(2e9)

    assert connection.next_deadline() == float("inf")
    assert not connection.closed
