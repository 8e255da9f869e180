"""Whole conversations over HTTP/2 through the lean shell's calls, the stream and the director, several at once.

An input is a row of steps. A step is one byte, its upper five bits what happens and its lower three on which call, followed
by what it needs: a message is its length in two bytes and the message, most others need nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial

from epp.http2 import Connection, GrpcStream, Limits, StreamHandler
from epp.http2 import frames as wire
from epp.server.health import HealthState
from epp.server.lean import CHECK, LIST, PROCESS, LeanServer
from tests.fuzz.epp_in_process import World
from tests.fuzz.fuzz_frames import HANDSHAKE, bound
from tests.support.http2_peer import message, parse

LIMITS = Limits(
    max_concurrent_streams=8,
    max_message_bytes=100_000,
    max_receive_buffer_bytes=200_000,
    stream_send_high_bytes=3000,
    max_stream_send_buffer_bytes=200_000,
    max_send_buffer_bytes=400_000,
    output_chunk_bytes=4000,
    max_output_bytes=100_000,
)
METHODS = (PROCESS, PROCESS, PROCESS, PROCESS, PROCESS, PROCESS, CHECK, LIST)


class Step(IntEnum):
    MESSAGE = 0
    HALF_CLOSE = 1
    RESET = 2
    PART = 3  # of a message: its length in two bytes, then bytes that are put into DATA as they are
    END_WAITS = 4
    TURN = 5
    ENDPOINT = 6
    PAUSE = 7
    RESUME = 8
    WINDOW = 9  # initial window: two bytes
    UPDATE = 10
    GO_AWAY = 11
    LATER = 12


STEPS = tuple(Step)


class Shell:
    """What the lean server's connections do, without a socket."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = LeanServer(HealthState(synced=True), world.service, limits=LIMITS)
        self.connection = Connection(self, 0.0, limits=LIMITS)
        self.now = 0.0
        self.written = bytearray()
        self.ids: dict[int, int] = {}
        self.next_id = 1
        self.receive(HANDSHAKE)

    def on_open(self, stream: GrpcStream) -> StreamHandler | None:
        return self.server.open_call(stream, self.flush)

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        raise AssertionError(f"a call has crashed: {error!r}") from error

    def flush(self) -> None:
        while output := self.connection.data_to_send():
            self.written += output

    def receive(self, data: bytes) -> None:
        self.connection.receive(data, self.now)
        self.flush()
        assert self.connection.buffered_bytes <= bound(LIMITS, len(data))

    def open(self, slot: int) -> int:
        """The id of the slot's call, which is begun when there is none."""
        if slot not in self.ids:
            self.ids[slot] = self.next_id
            self.next_id += 2
            self.receive(wire.frame(wire.HEADERS, wire.END_HEADERS, self.ids[slot], _block(METHODS[slot])))
        return self.ids[slot]

    def send(self, slot: int, payload: bytes) -> None:
        stream_id = self.open(slot)
        for start in range(0, max(len(payload), 1), 16_384):
            self.receive(wire.frame(wire.DATA, 0, stream_id, payload[start : start + 16_384]))


def _block(method: str) -> bytes:
    """A header block without Huffman codes and without a mark on the table."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "epp",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


class Input:
    """Takes an input apart."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def __bool__(self) -> bool:
        return self._pos < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._pos : self._pos + size]
        self._pos += size
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")


def _half_close(shell: Shell, slot: int) -> None:
    shell.receive(wire.frame(wire.DATA, wire.END_STREAM, shell.open(slot)))
    del shell.ids[slot]


def _reset(shell: Shell, slot: int) -> None:
    shell.receive(wire.rst_stream(shell.open(slot), 8))
    del shell.ids[slot]


def _resume(shell: Shell, slot: int) -> None:
    shell.connection.resume_writing()
    shell.flush()


def _go_away(shell: Shell, slot: int) -> None:
    shell.connection.go_away(shell.now)
    shell.flush()


def _later(shell: Shell, slot: int) -> None:
    shell.now += 0.3 * slot
    shell.connection.expire(shell.now)
    shell.flush()


PLAIN: dict[Step, Callable[[Shell, int], None]] = {
    Step.HALF_CLOSE: _half_close,
    Step.RESET: _reset,
    Step.END_WAITS: lambda shell, slot: shell.world.end_waits(),
    Step.ENDPOINT: lambda shell, slot: shell.world.change(slot),
    Step.PAUSE: lambda shell, slot: shell.connection.pause_writing(),
    Step.RESUME: _resume,
    Step.UPDATE: lambda shell, slot: shell.receive(wire.window_update(shell.ids.get(slot, 0), 1000)),
    Step.GO_AWAY: _go_away,
    Step.LATER: _later,
}


async def _apply(shell: Shell, source: Input) -> None:
    first = source.take(1)[0]
    slot, what = first & 7, STEPS[first >> 3 if first >> 3 < len(STEPS) else Step.TURN]
    if what is Step.MESSAGE:
        shell.send(slot, message(source.take(source.number())))
    elif what is Step.PART:
        shell.send(slot, source.take(source.number()))
    elif what is Step.WINDOW:
        shell.receive(wire.settings([(wire.SETTINGS_INITIAL_WINDOW_SIZE, source.number())]))
    elif what is Step.TURN:
        await shell.world.turn()
    else:
        PLAIN[what](shell, slot)


def target() -> Callable[[bytes], None]:
    """The function that takes inputs, and the world it needs."""
    return partial(one_input, World())


def one_input(world: World, data: bytes) -> None:
    world.begin()
    world.run(_converse(world, Input(data)))
    world.check_idle()


async def _converse(world: World, source: Input) -> None:
    shell = Shell(world)
    while source and not shell.connection.closed:
        await _apply(shell, source)
    shell.connection.connection_lost()
    await world.turn()
    assert (shell.connection.open_streams, shell.connection.buffered_bytes) == (0, 0)
    assert all(frame.kind <= wire.CONTINUATION for frame in parse(bytes(shell.written)))
