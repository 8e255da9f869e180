"""Windows of both sides, queues behind closed windows, and what a slow reader can make us hold."""

import hpack

from epp.http2 import Connection, ErrorCode, Limits
from epp.http2 import frames as wire
from tests.support.http2_peer import REQUEST, Frame, RawClient, Recorder, errors, message

WINDOW_OF_10 = {wire.SETTINGS_INITIAL_WINDOW_SIZE: 10}


def data_of(frames: list[Frame], stream_id: int = 1) -> list[bytes]:
    return [f.payload for f in frames if f.kind == wire.DATA and f.stream_id == stream_id]


def opened(application: Recorder, *stream_ids: int, **options: object) -> RawClient:
    client = RawClient(application, **options)  # type: ignore[arg-type]
    for stream_id in stream_ids:
        client.open(stream_id)
    client.frames()
    return client


def test_data_stops_at_the_streams_window_and_goes_on_with_it() -> None:
    application = Recorder()
    client = opened(application, 1, settings=WINDOW_OF_10)
    application.streams[1].send_message(b"0123456789")
    assert data_of(client.frames()) == [message(b"0123456789")[:10]]

    client.send(wire.window_update(1, 3))

    assert data_of(client.frames()) == [b"567"]


def test_data_stops_at_the_connections_window_and_streams_take_turns() -> None:
    application = Recorder()
    client = opened(application, 1, 3, settings={wire.SETTINGS_INITIAL_WINDOW_SIZE: 2**30})
    application.streams[1].send_message(bytes(100_000))
    application.streams[3].send_message(bytes(100_000))
    assert sum(map(len, data_of(client.frames()))) == 65_535

    client.send(wire.window_update(0, 65_536))
    frames = client.frames()

    assert sum(map(len, data_of(frames, 3))) == 32_768
    assert sum(map(len, data_of(frames, 1))) == 32_768


def test_trailers_wait_for_the_queue() -> None:
    application = Recorder()
    client = opened(application, 1, settings=WINDOW_OF_10)
    application.streams[1].send_message(b"0123456789")
    application.streams[1].finish()
    assert wire.HEADERS not in [f.kind for f in client.frames()[1:]]

    client.send(wire.window_update(1, 100))

    last = client.frames()
    assert [f.kind for f in last] == [wire.DATA, wire.HEADERS, wire.RST_STREAM]
    assert client.fields_of(last[1]) == {"grpc-status": "0"}


def test_smaller_initial_window_can_make_a_window_negative() -> None:
    application = Recorder()
    client = opened(application, 1)
    application.streams[1].send_message(bytes(95))
    client.send(wire.settings([(wire.SETTINGS_INITIAL_WINDOW_SIZE, 50)]))  # 100 of them are used: -50
    application.streams[1].send_message(b"x")
    client.frames()

    client.send(wire.window_update(1, 50))
    assert data_of(client.frames()) == []
    client.send(wire.window_update(1, 1))
    assert data_of(client.frames()) == [b"\x00"]


def test_many_window_settings_in_one_frame_count_as_the_last() -> None:
    application = Recorder()
    client = opened(application, 1)
    client.send(wire.settings([(wire.SETTINGS_INITIAL_WINDOW_SIZE, n) for n in (5, 2**31 - 1, 7)]))
    application.streams[1].send_message(b"0123456789")

    assert data_of(client.frames()) == [message(b"0123456789")[:7]]


def test_received_windows_are_given_back_in_bulk() -> None:
    application = Recorder()
    client = opened(application, 1, limits=Limits(stream_window_bytes=70_000, connection_window_bytes=70_000))
    for _ in range(7):
        client.data(1, message(bytes(9_995)))

    updates = [f for f in client.frames() if f.kind == wire.WINDOW_UPDATE]
    assert [(f.stream_id, int.from_bytes(f.payload, "big")) for f in updates] == [(0, 40_000), (1, 40_000)]


def test_data_beyond_the_streams_window_is_a_stream_error() -> None:
    application = Recorder()
    client = opened(application, 1, limits=Limits(stream_window_bytes=70_000))
    application.streams[1].pause_reading()
    for _ in range(8):
        client.data(1, message(bytes(9_995)))

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.FLOW_CONTROL_ERROR)]


def test_paused_reading_holds_the_window_back_until_it_goes_on() -> None:
    application = Recorder()
    client = opened(application, 1, limits=Limits(stream_window_bytes=70_000))
    application.streams[1].pause_reading()
    for _ in range(7):
        client.data(1, message(bytes(9_995)))
    assert client.frames() == []

    application.streams[1].resume_reading()

    assert client.frames() == [Frame(wire.WINDOW_UPDATE, 0, 1, (70_000).to_bytes(4, "big"))]


def test_window_smaller_than_the_default_counts_from_its_acknowledgement() -> None:
    application = Recorder()
    client = opened(application, 1, limits=Limits(stream_window_bytes=100))
    client.data(1, message(bytes(100)))

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.FLOW_CONTROL_ERROR)]


def test_what_came_before_the_acknowledgement_is_given_back() -> None:
    application = Recorder()
    connection = Connection(application, 0.0, limits=Limits(stream_window_bytes=100))
    block = hpack.Encoder().encode(REQUEST)
    early = wire.frame(wire.HEADERS, wire.END_HEADERS, 1, block) + wire.frame(wire.DATA, 0, 1, message(bytes(295)))
    connection.receive(wire.PREFACE + wire.settings([]) + early, 0.0)
    connection.data_to_send()
    connection.receive(wire.SETTINGS_ACK, 0.0)

    assert connection.data_to_send() == wire.window_update(1, 300)


def test_producer_is_told_to_stop_and_to_go_on() -> None:
    application = Recorder()
    client = opened(application, 1, settings=WINDOW_OF_10, limits=Limits(stream_send_high_bytes=100))
    stream = application.streams[1]
    assert stream.send_message(bytes(80))
    assert not stream.send_message(bytes(80))
    assert not stream.writable

    client.send(wire.window_update(1, 60))
    assert application.events[1:] == []
    client.send(wire.window_update(1, 60))

    assert application.events[1:] == [("writable", 1, None)]
    assert stream.writable


def test_producer_that_never_stops_loses_its_stream() -> None:
    application = Recorder()
    client = opened(application, 1, settings=WINDOW_OF_10, limits=Limits(max_stream_send_buffer_bytes=1000))
    for _ in range(20):
        application.streams[1].send_message(bytes(100))

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.ENHANCE_YOUR_CALM)]
    assert application.events[1:] == [("reset", 1, ErrorCode.ENHANCE_YOUR_CALM)]
    assert client.connection.buffered_bytes == 0


def test_queues_of_all_streams_together_are_bounded() -> None:
    application = Recorder()
    client = opened(application, 1, 3, 5, settings=WINDOW_OF_10, limits=Limits(max_send_buffer_bytes=1000))
    for stream in application.streams.values():
        stream.send_message(bytes(400))

    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.ENHANCE_YOUR_CALM)]
    assert client.connection.buffered_bytes == 0


def test_paused_transport_gets_nothing_and_data_stays_queued() -> None:
    application = Recorder()
    client = opened(application, 1)
    client.connection.pause_writing()
    application.streams[1].send_message(b"x")
    assert client.frames() == []

    client.connection.resume_writing()

    assert data_of(client.frames()) == [message(b"x")]


def test_output_is_handed_out_in_chunks() -> None:
    application = Recorder()
    client = opened(application, 1, limits=Limits(output_chunk_bytes=20_000))
    client.send(wire.window_update(0, 10**6), wire.window_update(1, 10**6))
    application.streams[1].send_message(bytes(200_000))
    sizes = []
    while chunk := client.connection.data_to_send():
        sizes.append(len(chunk))

    assert max(sizes) < 20_000 + 2 * 16_393
    assert sum(sizes) > 200_000


def test_client_that_provokes_answers_but_does_not_read_them_is_closed() -> None:
    client = opened(Recorder(), limits=Limits(max_output_bytes=1000))
    client.connection.pause_writing()
    for _ in range(100):
        client.send(wire.PING_HEADER + bytes(8))

    assert client.connection.closed
    assert errors(client.frames()) == [(wire.GOAWAY, 0, ErrorCode.ENHANCE_YOUR_CALM)]
