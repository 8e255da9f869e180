"""Calls: messages in and out of DATA, statuses, compression, refusals, broken handlers."""

import gzip

import pytest

from epp.http2 import ErrorCode, Limits
from epp.http2 import frames as wire
from epp.http2.frames import frame
from tests.support.http2_peer import Frame, RawClient, Recorder, errors, message


def statuses(client: RawClient, frames: list[Frame]) -> list[dict[str, str]]:
    return [client.fields_of(f) for f in frames if f.kind == wire.HEADERS]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 11, 1000])
def test_messages_over_any_split_of_data(size: int) -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    body = message(b"one") + message(b"") + message(b"three")
    for start in range(0, len(body), size):
        client.data(1, body[start : start + size])
    client.data(1, b"", end=True)

    assert application.events[1:] == [
        ("message", 1, b"one"),
        ("message", 1, b""),
        ("message", 1, b"three"),
        ("half_close", 1, None),
    ]
    assert client.connection.buffered_bytes == len(client.connection.data_to_send())


def test_whole_reply() -> None:
    application = Recorder(echo=True)
    client = RawClient(application)
    client.open(1)
    client.data(1, message(b"hi"), end=True)

    head, body, trailers = client.frames()
    assert client.fields_of(head) == {":status": "200", "content-type": "application/grpc"}
    assert body == Frame(wire.DATA, 0, 1, message(b"hi"))
    assert client.fields_of(trailers) == {"grpc-status": "0"}
    assert trailers.flags == wire.END_HEADERS | wire.END_STREAM
    assert client.connection.open_streams == 0


def test_the_second_call_of_a_connection_gets_the_same_reply() -> None:
    application = Recorder(echo=True)
    client = RawClient(application)
    replies = []
    for stream_id in (1, 3):
        client.open(stream_id)
        client.data(stream_id, message(b"hi"), end=True)
        replies.append(statuses(client, client.frames()))

    assert replies[0] == replies[1]


def test_client_that_allows_no_header_table_can_read_the_replies() -> None:
    application = Recorder(echo=True)
    client = RawClient(application, settings={wire.SETTINGS_HEADER_TABLE_SIZE: 0})
    client.decoder.max_allowed_table_size = 0
    client.open(1, end=True)
    client.open(3, end=True)

    assert [fields["grpc-status"] for fields in statuses(client, client.frames())] == ["0", "0"]


def test_status_without_a_message_is_trailers_only() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1, end=True)
    application.streams[1].finish(5, "no such thing", [("x-why", "because")])

    (only,) = client.frames()
    assert only.flags == wire.END_HEADERS | wire.END_STREAM
    assert client.fields_of(only) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "5",
        "grpc-message": "no such thing",
        "x-why": "because",
    }


def test_initial_metadata_goes_once() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    application.streams[1].send_headers([("x-a", "1")])
    application.streams[1].send_headers([("x-a", "2")])
    application.streams[1].send_message(b"m")

    (head,) = statuses(client, client.frames())
    assert head["x-a"] == "1"


def test_early_end_tells_the_client_to_stop_sending() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    application.streams[1].finish(7)

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.NO_ERROR)]
    assert client.connection.open_streams == 0


def test_nothing_is_heard_after_finish_and_nothing_said() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    stream = application.streams[1]
    stream.finish()
    client.data(1, message(b"x"))
    client.frames()

    assert not stream.send_message(b"late")
    stream.finish(13)
    stream.reset(8)
    assert client.frames() == []
    assert [event[0] for event in application.events] == ["open"]


def test_unknown_method() -> None:
    client = RawClient(Recorder())
    client.open(1, end=True)
    client.send(
        frame(
            wire.HEADERS,
            5,
            3,
            client.block(
                fields=(
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", "/no"),
                    ("content-type", "application/grpc"),
                )
            ),
        )
    )

    assert statuses(client, client.frames())[0]["grpc-status"] == "12"


def test_another_content_type_is_answered_415_with_a_body() -> None:
    client = RawClient(Recorder())
    client.send(
        frame(wire.HEADERS, 5, 1, client.block(fields=((":method", "GET"), (":scheme", "http"), (":path", "/"))))
    )

    head, body, *_ = client.frames()
    assert client.fields_of(head) == {":status": "415", "content-type": "text/plain"}
    assert body.payload == b"expected content-type application/grpc\n"
    assert client.connection.open_streams == 0


def test_answer_to_head_has_no_body() -> None:
    client = RawClient(Recorder())
    client.send(
        frame(wire.HEADERS, 5, 1, client.block(fields=((":method", "HEAD"), (":scheme", "http"), (":path", "/"))))
    )

    (only,) = client.frames()
    assert only.flags & wire.END_STREAM


def test_refused_request_may_go_on_with_its_body() -> None:
    client = RawClient(Recorder())
    client.send(
        frame(wire.HEADERS, 4, 1, client.block(fields=((":method", "POST"), (":scheme", "http"), (":path", "/"))))
    )
    client.data(1, b"body")
    assert client.connection.open_streams == 1
    client.data(1, b"", end=True)

    assert errors(client.frames()) == []
    assert client.connection.open_streams == 0


@pytest.mark.parametrize("declared", [101, 2**32 - 1])
def test_message_over_the_limit_is_refused_by_its_prefix(declared: int) -> None:
    application = Recorder()
    client = RawClient(application, limits=Limits(max_message_bytes=100))
    client.open(1)
    client.data(1, b"\x00" + declared.to_bytes(4, "big"))

    assert statuses(client, client.frames())[0]["grpc-status"] == "8"
    assert application.events[1:] == [("reset", 1, ErrorCode.CANCEL)]


def test_unfinished_messages_of_all_calls_are_bounded() -> None:
    application = Recorder()
    client = RawClient(application, limits=Limits(max_receive_buffer_bytes=100))
    for stream_id in (1, 3):
        client.open(stream_id)
        client.data(stream_id, message(bytes(200))[:60])

    assert statuses(client, client.frames())[0]["grpc-status"] == "8"
    assert client.connection.buffered_bytes == 60


@pytest.mark.parametrize(
    ("encoding", "payload", "status"),
    [
        ("identity", message(b"x", compressed=True), "13"),
        ("gzip", b"\x02" + bytes(4), "13"),
        ("gzip", message(b"broken", compressed=True), "13"),
        ("gzip", message(gzip.compress(bytes(10**7)), compressed=True), "8"),
        ("snappy", b"", "12"),
    ],
)
def test_compression_that_cannot_be_read(encoding: str, payload: bytes, status: str) -> None:
    client = RawClient(Recorder())
    client.open(1, ("grpc-encoding", encoding))
    client.data(1, payload)

    fields = statuses(client, client.frames())[0]
    assert fields["grpc-status"] == status
    assert fields.get("grpc-accept-encoding") == ("identity,gzip" if encoding == "snappy" else None)


def test_gzip_both_ways() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1, ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip"))
    client.data(1, message(gzip.compress(b"question"), compressed=True) + message(b"plain"))
    stream = application.streams[1]
    assert stream.compress_replies()
    stream.send_message(b"answer", compress=True)
    stream.send_message(b"plain")

    head, first, second = client.frames()
    assert [event[2] for event in application.events[1:]] == [b"question", b"plain"]
    assert client.fields_of(head)["grpc-encoding"] == "gzip"
    assert first.payload[0] == 1
    assert gzip.decompress(first.payload[5:]) == b"answer"
    assert second.payload == message(b"plain")


def test_reply_is_not_compressed_for_a_client_that_cannot_read_it() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)

    assert not application.streams[1].compress_replies()
    application.streams[1].send_message(b"answer", compress=True)
    assert client.frames()[1].payload == message(b"answer")


def test_request_that_ends_inside_a_message() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.data(1, message(b"whole")[:-1], end=True)

    assert statuses(client, client.frames())[0]["grpc-status"] == "13"
    assert application.events[1:] == [("reset", 1, ErrorCode.CANCEL)]


def test_timeout_that_cannot_be_read() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1, ("grpc-timeout", "soon"))

    assert statuses(client, client.frames())[0]["grpc-status"] == "13"
    assert application.events == []


@pytest.mark.parametrize("split", [False, True])
def test_broken_handler_costs_its_own_call_only(split: bool) -> None:
    application = Recorder(fail=True)
    client = RawClient(application)
    client.open(1)
    client.open(3)
    body = message(b"x")
    for part in [body[:3], body[3:]] if split else [body]:
        client.data(1, part)

    assert statuses(client, client.frames())[0] == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "13",
        "grpc-message": "internal error",
    }
    assert [str(error) for error in application.crashes] == ["broken handler"]
    assert client.connection.open_streams == 1


def test_clients_reset_reaches_the_handler_with_its_code() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.data(1, message(b"half")[:4])
    client.reset(1, ErrorCode.REFUSED_STREAM)

    assert application.events[1:] == [("reset", 1, ErrorCode.REFUSED_STREAM)]
    assert client.connection.buffered_bytes == len(client.connection.data_to_send())


def test_our_reset_reaches_client_and_handler() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    application.streams[1].reset(ErrorCode.CANCEL)

    assert errors(client.frames()) == [(wire.RST_STREAM, 1, ErrorCode.CANCEL)]
    assert application.events[1:] == [("reset", 1, ErrorCode.CANCEL)]
