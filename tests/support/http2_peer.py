"""A client made of raw frames for tests of `epp.http2`, and an application that writes down what it hears."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import pack

import hpack

from epp.http2 import Connection, GrpcStream, Limits
from epp.http2 import frames as wire

METHOD = "/echo.Echo/Echo"
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", METHOD),
    (":authority", "epp"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
Event = tuple[str, int, object]


@dataclass
class Recorder:
    """Application and log in one. `events` holds (what, stream id, detail) in order."""

    echo: bool = False
    fail: bool = False
    events: list[Event] = field(default_factory=list)
    streams: dict[int, GrpcStream] = field(default_factory=dict)
    crashes: list[Exception] = field(default_factory=list)

    def on_open(self, stream: GrpcStream) -> "RecordingHandler | None":
        self.events.append(("open", stream.id, stream.path))
        self.streams[stream.id] = stream
        return RecordingHandler(self, stream) if stream.path == METHOD else None

    def on_crash(self, stream: GrpcStream, error: Exception) -> None:
        self.crashes.append(error)


@dataclass
class RecordingHandler:
    application: Recorder
    stream: GrpcStream

    def _log(self, what: str, detail: object = None) -> None:
        self.application.events.append((what, self.stream.id, detail))

    def on_message(self, message: bytes) -> None:
        self._log("message", message)
        if self.application.fail:
            raise RuntimeError("broken handler")
        if self.application.echo:
            self.stream.send_message(message)

    def on_half_close(self) -> None:
        self._log("half_close")
        if self.application.echo:
            self.stream.finish()

    def on_reset(self, code: int) -> None:
        self._log("reset", code)

    def on_writable(self) -> None:
        self._log("writable")


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[-4:] if self.kind == wire.RST_STREAM else self.payload[4:8], "big")


class RawClient:
    """One connection and the client's end of it, after the handshake. `now` is the test's clock, in seconds."""

    def __init__(
        self, application: Recorder, *, limits: Limits | None = None, settings: dict[int, int] | None = None
    ) -> None:
        self.now = 0.0
        self.application = application
        self.connection = Connection(application, self.now, limits=limits)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.send(wire.PREFACE, wire.settings(list((settings or {}).items())), wire.SETTINGS_ACK)
        self.greeting = self.frames()

    def send(self, *pieces: bytes) -> None:
        self.connection.receive(b"".join(pieces), self.now)

    def frames(self) -> list[Frame]:
        """What the server wrote since the last call."""
        output = b""
        while piece := self.connection.data_to_send():
            output += piece
        return list(parse(output))

    def block(self, *extra: tuple[str, str], fields: tuple[tuple[str, str], ...] = REQUEST) -> bytes:
        return self.encoder.encode([*fields, *extra])

    def open(self, stream_id: int, *extra: tuple[str, str], end: bool = False) -> None:
        """HEADERS of a gRPC call."""
        flags = wire.END_HEADERS | (wire.END_STREAM if end else 0)
        self.send(wire.frame(wire.HEADERS, flags, stream_id, self.block(*extra)))

    def data(self, stream_id: int, payload: bytes, *, end: bool = False) -> None:
        self.send(wire.frame(wire.DATA, wire.END_STREAM if end else 0, stream_id, payload))

    def reset(self, stream_id: int, code: int = 8) -> None:
        self.send(wire.rst_stream(stream_id, code))

    def expire_at(self, now: float) -> None:
        self.now = now
        self.connection.expire(now)

    def fields_of(self, frame: Frame) -> dict[str, str]:
        return {str(name): str(value) for name, value in self.decoder.decode(frame.payload)}


def message(body: bytes, *, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix."""
    return pack(">BI", compressed, len(body)) + body


def parse(output: bytes) -> Iterator[Frame]:
    pos = 0
    while pos < len(output):
        high, low, kind, flags, stream_id = wire.HEADER.unpack_from(output, pos)
        stop = pos + wire.HEADER_BYTES + (high << 8 | low)
        yield Frame(kind, flags, stream_id, output[pos + wire.HEADER_BYTES : stop])
        pos = stop


def errors(frames: list[Frame]) -> list[tuple[int, int, int]]:
    """(kind, stream, code) of every GOAWAY and RST_STREAM."""
    return [(f.kind, f.stream_id, f.code) for f in frames if f.kind in (wire.GOAWAY, wire.RST_STREAM)]
