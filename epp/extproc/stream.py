"""The ext_proc conversation as a state machine. No I/O and no clock: messages in, replies out.

How it works
============

Envoy opens one gRPC stream for each HTTP request and sends what it meets: request headers, pieces of the request body,
perhaps trailers, then the same for the response. Which of these it sends, and whether it waits for an answer to each, is
Envoy's configuration. The first message tells the body modes of both directions (`protocol_config`); this file serves all:

* FULL_DUPLEX_STREAMED (also assumed when Envoy does not tell): nothing is answered until the request body has ended, by
  `end_of_stream` or, when there are trailers, by the trailers. Then come the header reply, which carries the destination,
  and the whole body in pieces. The response body is answered piece by piece, by as many pieces as we like.
* BUFFERED: Envoy wants the header reply before it sends the body as one message. The reply to that message carries the
  destination.
* STREAMED, NONE, and the modes in between: the request goes on as soon as its headers are answered, so the decision is made
  on the headers alone, and bodies pass with one empty answer each.

A `Stream` is in one phase at a time. Every (phase, event) pair has its entry in `TABLE`, at the end of this file: the
method that handles it. Methods append serialized replies to `replies` and may change the phase. The caller sends `replies`
after each call, and ends the RPC when `finished` is true.

What to decide is asked of the `Exchange`. When a decision has to wait, the phase is DECIDING until the caller reports it by
`routed` or `refused`. Whatever an exchange raises is handled here: a RequestError becomes an immediate response; any other
exception becomes status 500 before the destination is known, and leaves the response untouched afterwards.
`Exchange.close` is called exactly once, when the response has ended or the conversation has, whichever comes first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

from epp.api import Code, RequestError, Termination
from epp.extproc import codec, wire
from epp.extproc.exchange import BodyMode, Destination, Exchange, RequestHead, ResponseHead
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.extproc.reading import ProcessingRequest, read, read_headers

_NO_METADATA: Final[Mapping[str, Mapping[str, Any]]] = {}


class Phase(enum.IntEnum):
    """Where the conversation stands."""

    START = 0  # nothing received
    COLLECTING = 1  # request headers received, its body is being gathered
    DECIDING = 2  # the exchange has been asked and has not answered
    FORWARDED = 3  # the request goes on; no response yet
    RESPONDING = 4  # response headers received, the body is open
    ENDED = 5  # the response has ended
    CLOSED = 6  # the conversation is over


class Event(enum.IntEnum):
    """What can happen: a message of each kind, the outcome of a decision, the end of the stream."""

    REQUEST_HEADERS = 0
    REQUEST_BODY = 1
    REQUEST_TRAILERS = 2
    RESPONSE_HEADERS = 3
    RESPONSE_BODY = 4
    RESPONSE_TRAILERS = 5
    ROUTED = 6
    REFUSED = 7
    HALF_CLOSED = 8  # Envoy has nothing more to say
    ABORTED = 9  # the stream was reset or its connection lost


class ProtocolFault(RequestError):
    """Envoy's configuration cannot work with this conversation."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INTERNAL, message)


_EVENT_OF: Final[Mapping[str, Event]] = {e.name.lower(): e for e in list(Event)[:6]}
_INTERNAL: Final = "the request could not be handled"
# Reading a member from an enum's class takes CPython 3.11 ten times as long as reading a global, and chunks are many.
_START, _COLLECTING, _DECIDING, _FORWARDED, _RESPONDING, _ENDED, _CLOSED = Phase
_NONE, _STREAMED, _BUFFERED = BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED
_FULL_DUPLEX: Final = BodyMode.FULL_DUPLEX_STREAMED
_COMPLETE: Final = Termination.COMPLETE


class Stream:
    """One conversation. `max_body_bytes` bounds a request body; a larger one is refused with status 413.

    Read `replies` (serialized ProcessingResponse messages, in order) and clear it after every call. `unexpected` counts
    messages that were out of place and only acknowledged.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_closed",
        "_destination",
        "_early_chunks",
        "_early_trailers",
        "_ended_by_trailers",
        "_exchange",
        "_head",
        "_max_body_bytes",
        "_pieces",
        "_request_mode",
        "_response_mode",
        "_response_seen",
        "finished",
        "phase",
        "replies",
        "unexpected",
    )

    def __init__(self, exchange: Exchange, *, max_body_bytes: int) -> None:
        self._exchange = exchange
        self._max_body_bytes = max_body_bytes
        self._request_mode: BodyMode = _FULL_DUPLEX
        self._response_mode: BodyMode = _FULL_DUPLEX
        self._head: RequestHead | None = None
        self._body = b""
        self._pieces: BytesIO | None = None  # of a body that comes in several
        self._body_bytes = 0
        self._destination: Destination | None = None
        self._early_chunks = 0
        self._early_trailers = False
        self._ended_by_trailers = False
        self._response_seen = False
        self._closed = False
        self.phase: Phase = _START
        self.replies: list[bytes] = []
        self.finished = False
        self.unexpected = 0

    # --- what the caller calls ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take one message from Envoy. A message of a kind that this version does not know is ignored.

        Raises DecodeError when it is none; the conversation is then to be aborted.
        """
        message = read(data)
        kind = message.WhichOneof("request")
        if kind is None:
            return
        if self.phase is _START and message.HasField("protocol_config"):
            self._learn_modes(message.protocol_config)
        TABLE[self.phase][_EVENT_OF[kind]](self, message)

    def routed(self, destination: Destination) -> None:
        """The decision that had to wait is made."""
        TABLE[self.phase][Event.ROUTED](self, destination)

    def refused(self, error: Exception) -> None:
        """The decision that had to wait has failed."""
        TABLE[self.phase][Event.REFUSED](self, error)

    def half_closed(self) -> None:
        """Envoy has ended its side."""
        TABLE[self.phase][Event.HALF_CLOSED](self, None)

    def aborted(self) -> None:
        """The stream is gone: reset, cancelled or disconnected. Nothing can be sent any more."""
        TABLE[self.phase][Event.ABORTED](self, None)

    # --- request -----------------------------------------------------------------------------------------------------

    def _learn_modes(self, config: pb.ProtocolConfiguration) -> None:
        # An absent field means NONE (seen with Envoy 1.40); an absent protocol_config means an Envoy that does not tell.
        self._request_mode = _mode(config.request_body_mode)
        self._response_mode = _mode(config.response_body_mode)

    def _request_headers(self, message: ProcessingRequest) -> None:
        received = message.request_headers
        head = self._head = RequestHead(
            read_headers(received.headers), received.end_of_stream, self._request_mode, self._response_mode
        )
        self._note_subset(message)
        if received.end_of_stream:
            self._decide(None)
        elif self._request_mode is _FULL_DUPLEX or self._request_mode is _BUFFERED:
            if _content_length(head.headers) > self._max_body_bytes:
                self._refuse(_too_large(self._max_body_bytes))
                return
            self.phase = _COLLECTING
            if self._request_mode is _BUFFERED:
                self.replies.append(codec.request_headers_reply(None, body_size=0))
        else:
            self._decide(None)

    def _note_subset(self, message: ProcessingRequest) -> None:
        # Envoy repeats the request's metadata on each message; the latest that carries any wins.
        metadata = message.metadata_context
        if metadata and self._head is not None:
            subset = codec.read_subset(metadata)
            if subset is not None:
                self._head.subset = subset

    def _collect(self, message: ProcessingRequest) -> None:
        received = message.request_body
        self._note_subset(message)
        if received.body:
            self._gather(received.body)
            if self._body_bytes > self._max_body_bytes:
                self._refuse(_too_large(self._max_body_bytes))
                return
        # A buffered body is one message; with trailers to come it lacks end_of_stream but still wants its answer.
        if received.end_of_stream or self._request_mode is _BUFFERED:
            self._decide(self._gathered())

    def _gather(self, piece: bytes) -> None:
        # Not a list of pieces: a large body would be in memory twice, and its pieces leave holes behind.
        self._body_bytes += len(piece)
        if self._pieces is not None:
            self._pieces.write(piece)
        elif self._body:
            self._pieces = BytesIO()
            self._pieces.write(self._body)
            self._pieces.write(piece)
            self._body = b""
        else:
            self._body = piece

    def _gathered(self) -> bytes:
        pieces, self._pieces = self._pieces, None
        return self._body if pieces is None else pieces.getvalue()

    def _collected_by_trailers(self, message: ProcessingRequest) -> None:
        # Trailers end the body: end_of_stream is only set when there are none (processing_mode.proto).
        self._note_subset(message)
        self._ended_by_trailers = True
        self._decide(self._gathered())

    def _decide(self, body: bytes | None) -> None:
        assert self._head is not None
        self._body = body or b""
        self.phase = _DECIDING
        try:
            destination = self._exchange.route(self._head, body)
        except Exception as error:
            self._refuse(error)
            return
        body = None  # a large one that is replaced shall not stay beside what replaces it
        if destination is not None:
            self._forward(destination)

    def _forward(self, destination: Destination) -> None:
        assert self._head is not None
        self._destination = destination
        self.phase = _FORWARDED
        replaced = destination.body
        whole = self._body if replaced is None else b""
        self._body = b""
        if self._head.end_of_stream:
            self.replies.append(codec.request_headers_reply(destination, body_size=0))
        elif self._request_mode is _FULL_DUPLEX:
            body = whole if replaced is None else replaced
            self.replies.append(codec.request_headers_reply(destination, body_size=len(body)))
            if body or not self._ended_by_trailers:
                self.replies.extend(
                    codec.streamed_replies("request_body", body, end=not self._ended_by_trailers, metadata=_NO_METADATA)
                )
            if self._ended_by_trailers:
                self.replies.append(codec.request_trailers_reply())
        elif self._request_mode is _BUFFERED:
            if self._ended_by_trailers:
                self.replies.append(codec.request_trailers_reply(destination))
            else:
                self.replies.append(codec.request_body_reply(destination, body=replaced))
        else:
            self.replies.append(codec.request_headers_reply(destination, body_size=0))
            for _ in range(self._early_chunks):
                self.replies.append(codec.chunk_reply("request_body", None, metadata=_NO_METADATA))
            if self._early_trailers:
                self.replies.append(codec.request_trailers_reply())
        if destination.skip_response:
            self._finish(_COMPLETE)

    def _early_body(self, message: ProcessingRequest) -> None:
        # Envoy may send bodies before the header reply (send_body_without_waiting_for_header_response). In the collecting
        # modes this is the repeated last chunk of large bodies (Envoy 1.35 and later), which has been answered for.
        if self._request_mode is not _FULL_DUPLEX and self._request_mode is not _BUFFERED:
            self._early_chunks += 1

    def _early_request_trailers(self, message: ProcessingRequest) -> None:
        self._early_trailers = True

    def _late_body(self, message: ProcessingRequest) -> None:
        if self._request_mode is not _FULL_DUPLEX and self._request_mode is not _BUFFERED:
            self.replies.append(codec.chunk_reply("request_body", None, metadata=_NO_METADATA))

    def _late_request_trailers(self, message: ProcessingRequest) -> None:
        self.replies.append(codec.request_trailers_reply())

    def _refuse(self, error: Exception) -> None:
        if not isinstance(error, RequestError):
            self._exchange.failed("request", error)
            error = RequestError(Code.INTERNAL, _INTERNAL)
        self._exchange.refused(error)
        grpc = self._head is not None and self._head.headers.get("content-type", "").startswith("application/grpc")
        self.replies.append(codec.immediate_reply(error, grpc=grpc))
        self._finish(Termination.ERROR)

    # --- response ----------------------------------------------------------------------------------------------------

    def _response_headers(self, message: ProcessingRequest) -> None:
        received = message.response_headers
        found = read_headers(received.headers)
        metadata = message.metadata_context
        served = codec.read_served(metadata) if metadata else None
        head = ResponseHead(found, _status(found), received.end_of_stream, served)
        self._response_seen = True
        self.phase = _RESPONDING
        changes: Mapping[str, str] = {}
        try:
            changes = self._exchange.response_headers(head, hold_allowed=self._may_hold(found))
        except Exception as error:
            self._exchange.failed("response headers", error)
        self.replies.append(codec.response_headers_reply(changes))
        if received.end_of_stream:
            self._end_response()

    def _may_hold(self, found: Mapping[str, str]) -> bool:
        # A streamed chunk has exactly one answer, so what is held back at trailers would be lost; a body with a known
        # length over HTTP/1 has none.
        return self._response_mode is not _STREAMED or "content-length" in found

    def _response_before_decision(self, message: ProcessingRequest) -> None:
        # Envoy answers the client itself (a time-out, a filter that refuses). The decision is of no use any more.
        self._exchange.close(self._close_once(Termination.CLIENT_DISCONNECT))
        self._response_headers_unasked(message)

    def _response_headers_unasked(self, message: ProcessingRequest) -> None:
        self.phase = _ENDED
        self.replies.append(codec.response_headers_reply({}))

    def _response_body(self, message: ProcessingRequest) -> None:
        received = message.response_body
        chunk, ended = received.body, received.end_of_stream
        # A buffered body is one message; with trailers to come it lacks end_of_stream.
        last = ended or self._response_mode is _BUFFERED
        try:
            out = self._exchange.response_body(chunk, last=last)
        except Exception as error:
            self._exchange.failed("response body", error)
            out = chunk
        metadata = self._final_metadata() if last else _NO_METADATA
        if self._response_mode is _FULL_DUPLEX:
            if not metadata and len(out) <= codec.BODY_CHUNK_BYTES:
                if out or last or not chunk:
                    self.replies.append(wire.streamed_reply("response_body", out, end=last))
            else:
                self.replies.extend(codec.streamed_replies("response_body", out, end=last, metadata=metadata))
        else:
            changed = None if out is chunk else out
            buffered = self._response_mode is _BUFFERED
            self.replies.append(codec.chunk_reply("response_body", changed, metadata=metadata, sized=buffered))
        if ended:
            self._end_response()

    def _response_trailers(self, message: ProcessingRequest) -> None:
        rest = b""
        try:
            rest = self._exchange.response_body(b"", last=True)
        except Exception as error:
            self._exchange.failed("response body", error)
        if rest and self._response_mode is _FULL_DUPLEX:
            self.replies.extend(
                codec.streamed_replies("response_body", rest, end=False, metadata=self._final_metadata())
            )
        self.replies.append(codec.response_trailers_reply())
        self._end_response()

    def _final_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            return self._exchange.response_metadata()
        except Exception as error:
            self._exchange.failed("response metadata", error)
            return _NO_METADATA

    def _end_response(self) -> None:
        self.phase = _ENDED
        self._exchange.close(self._close_once(_COMPLETE))

    # --- out of place ------------------------------------------------------------------------------------------------

    def _acknowledge(self, message: ProcessingRequest) -> None:
        """Answer a message that is out of place so that Envoy does not wait for it, and change nothing."""
        self.unexpected += 1
        kind = message.WhichOneof("request")
        if kind in ("request_body", "response_body"):
            received = message.request_body if kind == "request_body" else message.response_body
            mode = self._request_mode if kind == "request_body" else self._response_mode
            if mode is _FULL_DUPLEX:
                self.replies.extend(
                    codec.streamed_replies(kind, received.body, end=received.end_of_stream, metadata=_NO_METADATA)
                )
            else:
                self.replies.append(codec.chunk_reply(kind, None, metadata=_NO_METADATA))
        elif kind == "request_headers":
            self.replies.append(codec.request_headers_reply(None, body_size=0))
        elif kind == "request_trailers":
            self.replies.append(codec.request_trailers_reply())
        elif kind == "response_headers":
            self.replies.append(codec.response_headers_reply({}))
        else:
            self.replies.append(codec.response_trailers_reply())

    def _misplaced_start(self, message: ProcessingRequest) -> None:
        self._refuse(ProtocolFault("request headers must be sent first: set request_header_mode to SEND"))

    def _ignore(self, _: object) -> None:
        """Nothing is owed for this event in this phase."""

    # --- the end -----------------------------------------------------------------------------------------------------

    def _half_closed(self, _: None) -> None:
        # Without response bodies Envoy 1.40 ends the stream when the response has ended, by closing or by resetting it, and
        # does the same when the client goes away. Elsewhere a missing end means that the client or the server went away.
        without_bodies = self._response_seen and self._response_mode is _NONE
        self._finish(_COMPLETE if without_bodies else Termination.CLIENT_DISCONNECT)

    def _aborted(self, _: None) -> None:
        self.replies.clear()
        self._half_closed(None)

    def _finish(self, termination: Termination) -> None:
        self.phase = _CLOSED
        self.finished = True
        self._body, self._pieces = b"", None
        if not self._closed:
            self._exchange.close(self._close_once(termination))

    def _close_once(self, termination: Termination) -> Termination:
        self._closed = True
        return termination


_MODES: Final = {int(mode): mode for mode in BodyMode}


def _mode(value: int) -> BodyMode:
    return _MODES.get(value, _STREAMED)  # a mode of a later Envoy: pass bodies on one by one


def _status(found: Mapping[str, str]) -> int:
    text = found.get(":status", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _content_length(found: Mapping[str, str]) -> int:
    text = found.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _too_large(limit: int) -> RequestError:
    return RequestError(Code.PAYLOAD_TOO_LARGE, f"request body is larger than {limit} bytes")


Handler = Callable[[Stream, Any], None]

# TABLE[phase][event], events in the order of `Event`.
TABLE: Final[Mapping[Phase, tuple[Handler, ...]]] = {
    Phase.START: (
        Stream._request_headers,
        Stream._misplaced_start,
        Stream._misplaced_start,
        Stream._response_headers_unasked,
        Stream._misplaced_start,
        Stream._misplaced_start,
        Stream._ignore,
        Stream._ignore,
        Stream._half_closed,
        Stream._aborted,
    ),
    Phase.COLLECTING: (
        Stream._acknowledge,
        Stream._collect,
        Stream._collected_by_trailers,
        Stream._response_before_decision,
        Stream._acknowledge,
        Stream._acknowledge,
        Stream._ignore,
        Stream._ignore,
        Stream._half_closed,
        Stream._aborted,
    ),
    Phase.DECIDING: (
        Stream._acknowledge,
        Stream._early_body,
        Stream._early_request_trailers,
        Stream._response_before_decision,
        Stream._acknowledge,
        Stream._acknowledge,
        Stream._forward,
        Stream._refuse,
        Stream._half_closed,
        Stream._aborted,
    ),
    Phase.FORWARDED: (
        Stream._acknowledge,
        Stream._late_body,
        Stream._late_request_trailers,
        Stream._response_headers,
        Stream._response_body,
        Stream._response_trailers,
        Stream._ignore,
        Stream._ignore,
        Stream._half_closed,
        Stream._aborted,
    ),
    Phase.RESPONDING: (
        Stream._acknowledge,
        Stream._late_body,
        Stream._late_request_trailers,
        Stream._acknowledge,
        Stream._response_body,
        Stream._response_trailers,
        Stream._ignore,
        Stream._ignore,
        Stream._half_closed,
        Stream._aborted,
    ),
    Phase.ENDED: (
        Stream._acknowledge,
        Stream._late_body,
        Stream._late_request_trailers,
        Stream._acknowledge,
        Stream._acknowledge,
        Stream._acknowledge,
        Stream._ignore,
        Stream._ignore,
        Stream._half_closed,
        Stream._aborted,
    ),
    Phase.CLOSED: (Stream._ignore,) * len(Event),
}
