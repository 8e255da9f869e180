"""Whatever client, application and transport do, in any order: the totals that bound memory match what is really held."""

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.http2 import ErrorCode, Limits
from epp.http2 import frames as wire
from tests.support.http2_peer import RawClient, Recorder, message

STREAMS = st.sampled_from([1, 3, 5])
SIZES = st.sampled_from([0, 1, 4, 5, 40, 3000])
STEPS = st.one_of(
    st.tuples(st.just("open"), STREAMS, st.booleans()),
    st.tuples(st.just("data"), STREAMS, SIZES),
    st.tuples(st.just("half message"), STREAMS, SIZES),
    st.tuples(st.just("end"), STREAMS, st.none()),
    st.tuples(st.just("client resets"), STREAMS, st.none()),
    st.tuples(st.just("stream window"), STREAMS, SIZES),
    st.tuples(st.just("connection window"), STREAMS, SIZES),
    st.tuples(st.just("initial window"), STREAMS, SIZES),
    st.tuples(st.just("send"), STREAMS, SIZES),
    st.tuples(st.just("finish"), STREAMS, st.sampled_from([0, 7])),
    st.tuples(st.just("server resets"), STREAMS, st.none()),
    st.tuples(st.just("read"), STREAMS, st.booleans()),
    st.tuples(st.just("pause"), STREAMS, st.booleans()),
    st.tuples(st.just("write"), STREAMS, st.none()),
    st.tuples(st.just("time"), STREAMS, SIZES),
)
TIGHT = Limits(
    stream_send_high_bytes=2000,
    max_stream_send_buffer_bytes=9000,
    max_send_buffer_bytes=20_000,
    max_receive_buffer_bytes=4000,
    output_chunk_bytes=1000,
    max_remembered_streams=2,
    write_stall_timeout_s=2000,
)


class Chaos:
    """Applies steps; a step that makes no sense for the stream's state is skipped where a client could not send it."""

    def __init__(self) -> None:
        self.application = Recorder()
        self.client = RawClient(self.application, limits=TIGHT)
        self.sent_end: set[int] = set()

    def apply(self, what: str, stream_id: int, detail: int | None) -> None:
        client, number = self.client, int(detail or 0)
        stream = self.application.streams.get(stream_id)
        if what == "open":
            if stream is None:
                client.open(stream_id, ("grpc-timeout", "900S"))
        elif what == "connection window":
            client.send(wire.window_update(0, number + 1))
        elif what == "initial window":
            client.send(wire.settings([(wire.SETTINGS_INITIAL_WINDOW_SIZE, number)]))
        elif what == "pause":
            (client.connection.pause_writing if number else client.connection.resume_writing)()
        elif what == "write":
            client.connection.data_to_send()
        elif what == "time":
            client.expire_at(client.now + number / 10)
        elif stream is not None:
            self._on_stream(what, stream_id, number)

    def _on_stream(self, what: str, stream_id: int, number: int) -> None:
        client, stream = self.client, self.application.streams[stream_id]
        if what == "send":
            stream.send_message(bytes(number))
        elif what == "finish":
            stream.finish(number)
        elif what == "server resets":
            stream.reset(ErrorCode.CANCEL)
        elif what == "read":
            (stream.resume_reading if number else stream.pause_reading)()
        elif what == "stream window":
            client.send(wire.window_update(stream_id, number + 1))
        elif stream_id not in self.sent_end:
            self._on_request(what, stream_id, number)

    def _on_request(self, what: str, stream_id: int, number: int) -> None:
        if what == "data":
            self.client.data(stream_id, message(bytes(number)))
        elif what == "half message":
            self.client.data(stream_id, message(bytes(number + 9))[:-3])
        else:
            self.sent_end.add(stream_id)
            if what == "end":
                self.client.data(stream_id, b"", end=True)
            else:
                self.client.reset(stream_id)

    def check(self) -> None:
        link = self.client.connection._link
        streams = list(link.streams.values())
        assert link.queued_bytes == sum(len(stream.queue or b"") for stream in streams)
        assert link.inbox_bytes == sum(len(stream._inbox or b"") for stream in streams)  # type: ignore[attr-defined]
        assert set(link.ready) == {stream for stream in streams if stream.queue and stream.send_window > 0}
        assert link.inbox_bytes <= TIGHT.max_receive_buffer_bytes
        assert len(link.ended_first) <= TIGHT.max_remembered_streams
        assert all(stream.local_closed or not stream.end_sent for stream in streams)


@given(steps=st.lists(STEPS, max_size=60))
@settings(max_examples=200)
def test_totals_match_what_is_held_after_every_step(steps: list[tuple[str, int, int | None]]) -> None:
    chaos = Chaos()
    for step in steps:
        chaos.apply(*step)

        chaos.check()
    resets = [stream_id for what, stream_id, _ in chaos.application.events if what == "reset"]
    assert len(resets) == len(set(resets))
    assert chaos.application.crashes == []
    chaos.client.connection.connection_lost()
    chaos.check()
    assert chaos.client.connection.buffered_bytes == 0
