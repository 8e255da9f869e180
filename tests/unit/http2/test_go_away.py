"""An orderly end: GOAWAY twice, nothing lost between them (RFC 9113, section 6.8)."""

from epp.http2 import ErrorCode, Limits
from epp.http2 import frames as wire
from epp.http2.frames import frame
from tests.support.http2_peer import Frame, RawClient, Recorder, errors, message


def goaways(frames: list[Frame]) -> list[int]:
    """Last stream ids of the GOAWAYs."""
    return [int.from_bytes(f.payload[:4], "big") for f in frames if f.kind == wire.GOAWAY]


def test_drain_serves_what_was_on_its_way_and_then_closes() -> None:
    application = Recorder(echo=True)
    client = RawClient(application)
    client.open(1)
    client.connection.go_away(0.0)
    first = client.frames()
    ping = next(f for f in first if f.kind == wire.PING)
    client.open(3)  # started before the client heard of it
    client.send(frame(wire.PING, wire.ACK, 0, ping.payload))
    second = client.frames()
    client.open(5)
    client.data(5, message(b"ignored"))
    client.data(1, message(b"a"), end=True)
    assert not client.connection.closed
    client.data(3, message(b"b"), end=True)

    assert (goaways(first), goaways(second)) == ([2**31 - 1], [3])
    assert [event[1] for event in application.events if event[0] == "half_close"] == [1, 3]
    assert client.connection.closed
    assert client.connection.error is None
    assert errors(client.frames()) == []


def test_drain_does_not_wait_for_a_client_that_does_not_answer_pings() -> None:
    client = RawClient(Recorder(), limits=Limits(drain_grace_s=1.0))
    client.connection.go_away(10.0)
    assert client.connection.next_deadline() == 11.0
    client.expire_at(11.0)

    assert goaways(client.frames()) == [2**31 - 1, 0]
    assert client.connection.closed


def test_ignored_calls_still_feed_the_header_table() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.connection.go_away(0.0)
    client.expire_at(1.0)
    client.open(3, ("x-new", "1"))
    client.open(5, ("x-new", "1"))
    client.data(1, message(b"still served"))

    assert application.events[1:] == [("message", 1, b"still served")]
    assert client.connection.error is None


def test_clients_goaway_is_returned_and_its_calls_run_to_their_end() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.send(frame(wire.GOAWAY, 0, 0, bytes(8)))
    client.expire_at(1.0)
    assert goaways(client.frames()) == [2**31 - 1, 1]
    assert not client.connection.closed

    application.streams[1].finish()

    assert client.connection.closed


def test_close_cuts_every_call() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.open(3)
    client.connection.close(ErrorCode.INTERNAL_ERROR, "stopping")

    frames = client.frames()
    assert errors(frames)[-1] == (wire.GOAWAY, 0, ErrorCode.INTERNAL_ERROR)
    assert frames[-1].payload[8:] == b"stopping"
    assert application.events[2:] == [("reset", 1, ErrorCode.CANCEL), ("reset", 3, ErrorCode.CANCEL)]


def test_lost_connection_cuts_every_call_and_swallows_what_they_say() -> None:
    application = Recorder()
    client = RawClient(application)
    client.open(1)
    client.connection.connection_lost()

    assert application.events[-1] == ("reset", 1, ErrorCode.CANCEL)
    assert not application.streams[1].send_message(b"x")
    application.streams[1].finish()
    assert client.frames() == []
