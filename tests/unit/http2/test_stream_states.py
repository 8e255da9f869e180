"""Which frames a stream may still get: open, half-closed, closed by either side, never opened (RFC 9113, section 5.1)."""

import pytest

from epp.http2 import ErrorCode, Limits
from epp.http2 import frames as wire
from epp.http2.frames import frame
from tests.support.http2_peer import REQUEST, RawClient, Recorder, errors, message


def test_data_and_headers_after_end_stream_are_stream_errors() -> None:
    for late in (frame(wire.DATA, 0, 1, b"x"), frame(wire.HEADERS, wire.END_HEADERS, 1, b"\x82")):
        application = Recorder()
        client = RawClient(application)
        client.open(1, end=True)
        client.send(late)

        assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.STREAM_CLOSED)]
        assert application.events[-1] == ("reset", 1, ErrorCode.STREAM_CLOSED)


@pytest.mark.parametrize("kind", [wire.DATA, wire.HEADERS])
def test_frames_for_a_stream_that_both_ended_are_a_connection_error(kind: int) -> None:
    client = RawClient(Recorder(echo=True))
    client.open(1, end=True)
    client.send(frame(kind, wire.END_HEADERS if kind else 0, 1, b"\x82"))

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.STREAM_CLOSED)]


def test_data_after_the_clients_own_reset_is_a_connection_error() -> None:
    client = RawClient(Recorder())
    client.open(1)
    client.reset(1)
    client.data(1, b"x")

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.STREAM_CLOSED)]


def test_late_frames_of_a_call_that_we_ended_are_excused() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    application.streams[1].finish()
    client.data(1, message(b"late"))
    client.send(wire.window_update(1, 5), frame(wire.HEADERS, 5, 1, client.block(fields=(("x", "y"),))))
    client.reset(1)

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.NO_ERROR)]
    assert [event[0] for event in application.events] == ["open"]


def test_ids_that_fell_out_of_memory_get_the_benefit_of_the_doubt() -> None:
    application = Recorder()
    client = RawClient(application, limits=Limits(max_remembered_streams=2))
    for stream_id in (1, 3, 5, 7):
        client.open(stream_id)
        application.streams[stream_id].finish()
    client.data(1, b"x")

    assert client.connection.error is None


def test_late_header_block_still_feeds_the_header_table() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    application.streams[1].finish()
    client.send(frame(wire.HEADERS, 5, 1, client.block(fields=(("x-new", "kept"),))))
    client.open(3, ("x-new", "kept"))

    assert ("x-new", "kept") in application.streams[3].headers


def test_lower_id_that_was_skipped_cannot_be_opened() -> None:
    client = RawClient(Recorder())
    client.open(7)
    client.open(3)

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.PROTOCOL_ERROR)]


def test_one_stream_too_many_is_refused_and_its_body_ignored() -> None:
    application = Recorder()
    client = RawClient(application, limits=Limits(max_concurrent_streams=1))
    client.open(1)
    client.open(3)
    client.data(3, message(b"x"), end=True)
    client.reset(1)
    client.open(5)

    assert errors(client.frames()) == [(wire.RST_STREAM, 3, ErrorCode.REFUSED_STREAM)]
    assert [event[:2] for event in application.events] == [("open", 1), ("reset", 1), ("open", 5)]


def test_request_trailers_end_the_request() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.data(1, message(b"x"))
    client.send(frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 1, client.block(fields=(("x-sum", "1"),))))

    assert [event[0] for event in application.events] == ["open", "message", "half_close"]


def test_padding_is_taken_off_and_counted_to_the_windows() -> None:
    application = Recorder()
    client = RawClient(application, limits=Limits(stream_window_bytes=65_535, connection_window_bytes=65_535))
    client.open(1)
    for _ in range(200):
        client.send(frame(wire.DATA, wire.PADDED, 1, b"\xfa" + message(b"x") + bytes(250)))

    assert application.events[1:] == [("message", 1, b"x")] * 200
    renewed = sum(int.from_bytes(f.payload, "big") for f in client.frames() if (f.kind, f.stream_id) == (8, 1))
    assert renewed >= 32_767


@pytest.mark.parametrize(
    ("length", "bodies", "broken"),
    [("4", [b"1234"], False), ("4", [b"12", b"34"], False), ("4", [b"123"], True), ("4", [b"12345"], True)],
)
def test_content_length_must_match_the_body(length: str, bodies: list[bytes], broken: bool) -> None:
    client = RawClient(Recorder())
    client.send(frame(wire.HEADERS, 4, 1, client.block(("content-length", length), fields=(*REQUEST[:4], REQUEST[4]))))
    for body in bodies[:-1]:
        client.data(1, body)
    client.data(1, bodies[-1], end=True)

    expected = [(wire.RST_STREAM, 1, ErrorCode.PROTOCOL_ERROR)] if broken else []
    assert errors(client.frames()) == expected


def test_content_length_without_a_body_is_answered_400() -> None:
    client = RawClient(Recorder())
    client.open(1, ("content-length", "4"), end=True)

    frames = client.frames()
    assert client.fields_of(frames[0])[":status"] == "400"
    assert client.connection.open_streams == 0
