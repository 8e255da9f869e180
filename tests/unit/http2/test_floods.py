"""Work without use, and how much of it a connection survives."""

import pytest

from epp.http2 import ErrorCode, Limits
from epp.http2 import frames as wire
from epp.http2.frames import frame
from tests.support.http2_peer import RawClient, Recorder, errors

CALM = [(wire.GOAWAY, 0, ErrorCode.ENHANCE_YOUR_CALM)]
FEW = Limits(
    max_pings_per_window=5,
    max_settings_per_window=7,  # two belong to the handshake
    max_empty_data_per_window=5,
    max_control_frames_per_window=5,
)


@pytest.mark.parametrize(
    "flood",
    [
        frame(wire.PING, 0, 0, bytes(8)),
        frame(wire.PING, wire.ACK, 0, bytes(8)),
        frame(wire.SETTINGS, 0, 0),
        wire.SETTINGS_ACK,
        frame(wire.DATA, 0, 1),
        frame(wire.DATA, wire.PADDED, 1, b"\x01\x00"),
        frame(wire.PRIORITY, 0, 9, b"\x00\x00\x00\x00\x00"),
        wire.window_update(0, 1),
        wire.window_update(1, 1),
        frame(wire.GOAWAY, 0, 0, bytes(8)),
        frame(0x77, 0, 0),
    ],
)
def test_flood(flood: bytes) -> None:
    client = RawClient(Recorder(), limits=FEW)
    client.open(1)
    for _ in range(5):
        client.send(flood)
    assert client.connection.error is None

    client.send(flood)

    assert errors(client.frames())[-1:] == CALM


def test_counts_begin_anew_in_the_next_window_of_time() -> None:
    client = RawClient(Recorder(), limits=FEW)
    for _ in range(4):
        client.now += FEW.flood_window_s
        client.send(*[frame(wire.PING, 0, 0, bytes(8))] * 5)

    assert errors(client.frames()) == []


def test_rapid_reset() -> None:
    client = RawClient(Recorder(), limits=Limits(max_premature_resets_per_window=3))
    for stream_id in (1, 3, 5, 7):
        client.open(stream_id)
        client.reset(stream_id)

    assert errors(client.frames()) == CALM


def test_resets_after_an_answer_began_are_no_abuse() -> None:
    application = Recorder()
    client = RawClient(application, limits=Limits(max_premature_resets_per_window=3))
    for stream_id in range(1, 41, 2):
        client.open(stream_id)
        application.streams[stream_id].send_message(b"x")
        client.reset(stream_id)

    assert errors(client.frames()) == []


def test_resets_that_the_client_provokes_from_us_count_too() -> None:
    client = RawClient(Recorder(), limits=Limits(max_stream_errors_per_window=3))
    for stream_id in (1, 3, 5, 7):
        client.open(stream_id)
        client.send(frame(wire.WINDOW_UPDATE, 0, stream_id, bytes(4)))

    assert errors(client.frames())[-1:] == CALM


def test_malformed_requests_count_as_stream_errors() -> None:
    client = RawClient(Recorder(), limits=Limits(max_stream_errors_per_window=3))
    for stream_id in (1, 3, 5, 7):
        client.open(stream_id, ("connection", "close"))

    assert errors(client.frames())[-1:] == CALM


def test_late_frames_of_ended_streams_are_excused_only_so_often() -> None:
    application = Recorder()
    client = RawClient(application, limits=FEW)
    client.open(1)
    application.streams[1].finish()
    client.send(*[frame(wire.DATA, 0, 1, b"x")] * 6)

    assert errors(client.frames())[-1:] == CALM


@pytest.mark.parametrize("limits", [Limits(max_header_block_bytes=300), Limits(max_continuation_frames=4)])
def test_endless_header_block(limits: Limits) -> None:
    client = RawClient(Recorder(), limits=limits)
    client.send(frame(wire.HEADERS, 0, 1, b"\x82"))
    for _ in range(4):
        client.send(frame(wire.CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 20))

    assert errors(client.frames()) == CALM
    assert client.connection.buffered_bytes == 0


def test_header_block_in_one_large_frame_is_bounded_as_well() -> None:
    client = RawClient(Recorder(), limits=Limits(max_header_block_bytes=300))
    client.open(1, ("x", "\x01" * 1000))

    assert errors(client.frames()) == CALM


def test_header_bomb_ends_the_connection_before_it_unfolds() -> None:
    client = RawClient(Recorder(), limits=Limits(max_header_list_bytes=10_000))
    value = b"v" * 3_000
    bomb = b"\x40\x01a\x7f" + bytes((len(value) - 127 & 0x7F | 0x80, len(value) - 127 >> 7)) + value + b"\xbe" * 5_000
    client.send(frame(wire.HEADERS, wire.END_HEADERS, 1, bomb))

    assert errors(client.frames()) == CALM


def test_large_header_list_is_answered_431() -> None:
    client = RawClient(Recorder(), limits=Limits(max_header_list_bytes=1_000))
    client.open(1, ("x", "y" * 1_000), end=True)

    assert client.fields_of(client.frames()[0])[":status"] == "431"
    assert client.connection.error is None


def test_connection_drains_after_its_last_stream_id() -> None:
    client = RawClient(Recorder(echo=True), limits=Limits(max_streams_per_connection=2))
    client.open(1, end=True)
    assert errors(client.frames()) == []
    client.open(3, end=True)

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.NO_ERROR)]
