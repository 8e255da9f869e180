"""Whole conversations with the `h2` library as the client: cut anywhere, squeezed through small windows, and broken."""

import random
from collections import defaultdict
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from epp.http2 import Connection, Limits
from tests.support.http2_peer import REQUEST, Event, Recorder, message, parse

Messages = list[bytes]
# A stuck exchange takes seconds to notice; shrinking it would take minutes.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
randoms = st.integers(0, 2**32).map(random.Random)
calls_strategy = st.lists(st.lists(st.binary(max_size=300), max_size=4), min_size=1, max_size=6)


def client_of(initial_window: int = 65_535) -> h2.connection.H2Connection:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial_window})
    return client


def pieces(rng: random.Random, body: bytes, largest: int) -> Iterator[bytes]:
    """`body` in random parts of 1 to `largest` bytes."""
    while body:
        size = rng.randint(1, largest)
        yield body[:size]
        body = body[size:]


def conversation(calls: list[Messages], rng: random.Random) -> bytes:
    """What a client writes that starts all calls and interleaves their DATA, some of it padded."""
    client = client_of()
    left: dict[int, list[bytes]] = {}
    for messages in calls:
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, REQUEST)
        left[stream_id] = list(pieces(rng, b"".join(map(message, messages)), 200))
    while left:
        stream_id = rng.choice(list(left))
        if left[stream_id]:
            client.send_data(stream_id, left[stream_id].pop(0), pad_length=rng.choice([None, None, 0, 9]))
        else:
            client.end_stream(stream_id)
            del left[stream_id]
    return client.data_to_send()


def heard(wire_bytes: bytes, cuts: list[int]) -> list[Event]:
    application = Recorder()
    connection = Connection(application, 0.0)
    for start, stop in zip([0, *cuts], [*cuts, len(wire_bytes)], strict=True):
        connection.receive(wire_bytes[start:stop], 0.0)
    assert connection.error is None
    assert connection.buffered_bytes == len(connection.data_to_send())
    return application.events


@given(calls=calls_strategy, rng=randoms, data=st.data())
@settings(max_examples=60)
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    calls: list[Messages], rng: random.Random, data: st.DataObject
) -> None:
    wire_bytes = conversation(calls, rng)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire_bytes) - 1), max_size=60)))

    whole = heard(wire_bytes, [])

    assert heard(wire_bytes, cuts) == whole
    assert heard(wire_bytes, list(range(1, len(wire_bytes)))) == whole
    by_stream = defaultdict(list)
    for what, stream_id, detail in whole:
        if what == "message":
            by_stream[stream_id].append(detail)
    assert [by_stream[2 * number + 1] for number in range(len(calls))] == calls


class Exchange:
    """An `h2` client and the core, joined by two pipes that pass random amounts."""

    def __init__(self, rng: random.Random, client_window: int, limits: Limits) -> None:
        self.rng = rng
        self.client = client_of(client_window)
        self.application = Recorder(echo=True)
        self.connection = Connection(self.application, 0.0, limits=limits)
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.received: dict[int, bytes] = defaultdict(bytes)
        self.trailers: dict[int, dict[bytes, bytes]] = {}
        self.paused = False

    def step(self) -> None:
        """One of: the transport pauses or goes on, bytes pass one way, bytes pass the other way."""
        if self.rng.random() < 0.1:
            self.paused = not self.paused
            (self.connection.pause_writing if self.paused else self.connection.resume_writing)()
        self.to_server += self.client.data_to_send()
        self.connection.receive(self._take(self.to_server), 0.0)
        self.to_client += self.connection.data_to_send()
        for event in self.client.receive_data(self._take(self.to_client)):
            self._on_event(event)

    def _take(self, pipe: bytearray) -> bytes:
        size = self.rng.choice([1, 9, 50, 1000, 100_000])
        taken = bytes(pipe[:size])
        del pipe[:size]
        return taken

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.received[event.stream_id] += event.data
            self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers[event.stream_id] = dict(event.headers)

    def offer(self, stream_id: int, body: bytearray) -> None:
        """Send as much of `body` as the server's windows allow."""
        size = min(len(body), self.client.local_flow_control_window(stream_id), self.rng.randint(1, 500))
        if size > 0:
            self.client.send_data(stream_id, bytes(body[:size]))
            del body[:size]


@given(
    calls=st.lists(st.lists(st.binary(max_size=1500), min_size=1, max_size=4), min_size=1, max_size=8),
    rng=randoms,
    client_window=st.sampled_from([0, 1, 37, 500, 65_535]),
    server_window=st.sampled_from([1, 40, 700, 65_535]),
)
@settings(max_examples=40, phases=NO_SHRINKING)
def test_every_byte_comes_back_through_any_windows(
    calls: list[Messages], rng: random.Random, client_window: int, server_window: int
) -> None:
    limits = Limits(stream_window_bytes=server_window, connection_window_bytes=65_535, stream_send_high_bytes=600)
    exchange = Exchange(rng, max(1, client_window), limits)
    bodies: dict[int, bytearray] = {}
    for messages in calls:
        stream_id = exchange.client.get_next_available_stream_id()
        exchange.client.send_headers(stream_id, REQUEST)
        bodies[stream_id] = bytearray(b"".join(map(message, messages)))
    sent = {stream_id: bytes(body) for stream_id, body in bodies.items()}

    for _ in range(40_000):
        if len(exchange.trailers) == len(sent):
            break
        for stream_id in list(bodies):
            exchange.offer(stream_id, bodies[stream_id])
            if not bodies[stream_id]:
                exchange.client.end_stream(stream_id)
                del bodies[stream_id]
        exchange.step()

    assert exchange.received == sent
    assert {trailers[b"grpc-status"] for trailers in exchange.trailers.values()} == {b"0"}
    exchange.connection.resume_writing()
    exchange.connection.receive(bytes(exchange.to_server), 0.0)
    exchange.connection.data_to_send()
    assert (exchange.connection.open_streams, exchange.connection.buffered_bytes) == (0, 0)


@given(
    calls=calls_strategy,
    rng=randoms,
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=12), st.integers(0, 12)), max_size=6),
    keep_preface=st.booleans(),
)
@settings(max_examples=150)
def test_broken_bytes_end_in_frames_never_in_exceptions(
    calls: list[Messages], rng: random.Random, edits: list[tuple[int, bytes, int]], keep_preface: bool
) -> None:
    wire_bytes = bytearray(conversation(calls, rng))
    for place, inserted, removed in edits:
        at = place % len(wire_bytes) if wire_bytes else 0
        at = max(at, 24) if keep_preface else at
        wire_bytes[at : at + removed] = inserted
    application = Recorder(echo=True)
    connection = Connection(application, 0.0)

    for part in pieces(rng, bytes(wire_bytes), 400):
        connection.receive(part, 0.0)
    connection.expire(5.0)
    connection.expire(100.0)
    output = b"".join(iter(connection.data_to_send, b""))

    assert application.crashes == []
    assert all(frame.kind <= 9 for frame in parse(output))
    opened = [stream_id for what, stream_id, _ in application.events if what == "open"]
    assert len(opened) == len(set(opened))
    connection.connection_lost()
    assert (connection.open_streams, connection.buffered_bytes) == (0, 0)
