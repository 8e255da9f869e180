"""One gRPC call on one HTTP/2 stream: messages out of DATA and into it, statuses, deadlines, compression.

The life of a call, as its handler sees it: `on_open` of the application makes the handler; then `on_message` any number of
times; then `on_half_close`; `on_writable` where `send_message` returned False. The call ends in exactly one of two ways:
the handler calls `finish` (or `reset`), after which it hears nothing more, or it hears `on_reset`, after which what it says
is ignored. All calls come from inside a method of `Connection` or a `send_message` in progress, and may call the stream back.
"""

from typing import Protocol

from epp.http2 import frames, grpc, literals
from epp.http2.errors import ErrorCode
from epp.http2.frames import DATA, DATA_WITH_MESSAGE, END_HEADERS, END_STREAM, HEADERS
from epp.http2.grpc import PREFIX, PREFIX_BYTES, MessageError, Metadata, Status
from epp.http2.requests import RequestHead
from epp.http2.streams import Link, Stream

_REPLY_BLOCK = literals.STATUS_200 + literals.content_type(b"application/grpc")
_GZIP_FIELD = literals.field(b"grpc-encoding", b"gzip")
_ACCEPT_FIELD = literals.field(b"grpc-accept-encoding", b"identity,gzip")
_OK_BLOCK = grpc.trailers_block(Status.OK, "")


_pack = DATA_WITH_MESSAGE.pack
_unpack = PREFIX.unpack_from


def _frame_ends(block: bytes, flags: int) -> tuple[bytes, bytes]:
    """What comes before and after the four bytes of the stream id."""
    head = frames.HEADER.pack(len(block) >> 8, len(block) & 0xFF, HEADERS, flags, 0)
    return head[:5], block


_REPLY_START, _REPLY_END = _frame_ends(_REPLY_BLOCK, END_HEADERS)
_OK_START, _OK_END = _frame_ends(_OK_BLOCK, END_HEADERS | END_STREAM)

_REFUSALS = {
    400: (b"content-length does not match the body\n", b""),
    405: (b"gRPC needs POST\n", literals.field(b"allow", b"POST")),
    415: (b"expected content-type application/grpc\n", b""),
    431: (b"request header fields too large\n", b""),
}


class StreamHandler(Protocol):
    """What a call does with what happens to it. An exception ends the call with INTERNAL and goes to `on_crash`."""

    def on_message(self, message: bytes) -> None: ...

    def on_half_close(self) -> None: ...

    def on_reset(self, code: int) -> None:
        """Over, not by `finish`: reset by the client, ended by the core (deadline, limits), or the connection is gone.

        Often no fault: Envoy 1.40 ends an ext_proc stream by a reset with INTERNAL_ERROR once it has its last reply.
        """

    def on_writable(self) -> None:
        """`send_message` had returned False; the queue is down to half of its high mark."""


class Application(Protocol):
    """The service behind a connection."""

    def on_open(self, stream: "GrpcStream") -> StreamHandler | None:
        """A call has begun. None answers UNIMPLEMENTED, unless `finish` was called on the stream."""

    def on_crash(self, stream: "GrpcStream", error: Exception) -> None:
        """A handler raised; the client gets INTERNAL without details. For the log."""


class GrpcStream(Stream):
    """A call, as the application holds it."""

    __slots__ = ("_application", "_gzip", "_handler", "_inbox", "_max_message", "deadline", "head")

    def __init__(self, link: Link, stream_id: int, head: RequestHead, application: Application) -> None:
        super().__init__(link, stream_id)
        self.head = head
        self.body_left = head.facts.content_length
        self.deadline: float | None = None
        """On the caller's clock; from grpc-timeout."""
        self._application = application
        self._handler: StreamHandler | None = None
        self._inbox: bytearray | None = None
        self._gzip = False
        self._max_message = link.limits.max_message_bytes

    @property
    def path(self) -> str:
        return self.head.facts.path

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The request's metadata, names in lower case, in order."""
        return self.head.headers

    # What the application says.

    def send_headers(self, metadata: Metadata) -> None:
        """Initial metadata, before the first message; once. Raises ValueError for fields that gRPC forbids."""
        if self.headers_sent or self.local_closed:
            return
        block = _REPLY_BLOCK + (_GZIP_FIELD if self._gzip else b"") + grpc.metadata_block(metadata)
        self.headers_sent = True
        self.link.write_headers(self.id, block, 0)

    def compress_replies(self) -> bool:
        """Announce gzip for this call's replies, if the client accepts it and nothing is sent yet. Whether it is on."""
        if not self.headers_sent and self.head.facts.accepts_gzip:
            self._gzip = True
        return self._gzip

    def send_message(self, message: bytes, *, compress: bool = False) -> bool:
        """One message. False asks for no more until `on_writable`; a call that is over swallows it and says False."""
        if self.local_closed:
            return False
        flag = 0
        if compress and self._gzip:
            message, flag = grpc.gzip(message), 1
        link = self.link
        if not self.headers_sent:
            self._send_reply_head()
        length = len(message)
        size = length + PREFIX_BYTES
        buffer, window, link_window = link.buffer, self.send_window, link.window
        if (
            size <= window
            and size <= link_window
            and size <= link.peer_max_frame_bytes
            and len(buffer) < link.cap_bytes
            and not self.queue
        ):
            self.send_window = window - size
            link.window = link_window - size
            buffer += _pack(size >> 8, size & 0xFF, DATA, 0, self.id, flag, length)
            buffer += message
            return True
        self.send(PREFIX.pack(flag, length), message)
        return not self.congested and not self.local_closed

    def finish(self, status: int = 0, message: str = "", trailers: Metadata = ()) -> None:
        """End the call with a status; without a message before it, as trailers-only. A call that is over ignores it."""
        if self.local_closed:
            return
        if not (status or message or trailers) and self.headers_sent:
            self._finish_ok()
        else:
            block = grpc.trailers_block(status, message, trailers)
            self._end_with(block if self.headers_sent else _REPLY_BLOCK + block)

    def _send_reply_head(self) -> None:
        link = self.link
        if self._gzip or link.fresh:
            self.send_headers(())
            return
        self.headers_sent = True
        link.buffer += b"%b%b%b" % (_REPLY_START, self.id.to_bytes(4, "big"), _REPLY_END)

    def _finish_ok(self) -> None:
        if self.queue:
            self._end_with(_OK_BLOCK)
            return
        self.local_closed = self.end_sent = True
        self._forget_handler()
        self.link.buffer += b"%b%b%b" % (_OK_START, self.id.to_bytes(4, "big"), _OK_END)
        self.close_if_done()

    def _end_with(self, block: bytes) -> None:
        self._forget_handler()
        self.end(block)

    # What the connection says.

    def start(self) -> None:
        """Called once, when the head is in: refuse the call or hand it to the application."""
        facts = self.head.facts
        if facts.http_refusal:
            self._refuse(facts.http_refusal)
        elif facts.bad_timeout:
            self.finish(Status.INTERNAL, facts.bad_timeout)
        elif facts.encoding not in ("identity", "gzip"):
            unknown = grpc.trailers_block(
                Status.UNIMPLEMENTED, f"grpc-encoding {facts.encoding[:64]!r} is not known here"
            )
            self._end_with(_REPLY_BLOCK + _ACCEPT_FIELD + unknown)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        timeout_s = self.head.facts.timeout_s
        if timeout_s is not None:
            self.deadline = self.link.now + timeout_s
            self.link.next_call_deadline = min(self.link.next_call_deadline, self.deadline)
        try:
            handler = self._application.on_open(self)
        except Exception as error:
            self._crash(error)
            return
        if self.local_closed:
            return
        if handler is None:
            self.finish(Status.UNIMPLEMENTED, f"unknown method {self.path[:256]}")
        else:
            self._handler = handler

    def _refuse(self, http_status: int) -> None:
        # A plain HTTP answer. The client may go on with its body (nobody reads it and its window is not renewed), and
        # the rules for that body hold until it ends, so the stream stays.
        text, extra = _REFUSALS[http_status]
        self.lingers = self.headers_sent = True
        block = literals.status(http_status) + literals.content_type(b"text/plain") + extra
        if self.head.facts.method == "HEAD":
            self.end(block)
            return
        self.link.write_headers(self.id, block, 0)
        self.send(b"", text)
        self.end(b"")

    def deliver(self, data: bytes, start: int, stop: int) -> None:
        handler = self._handler
        if handler is None:
            return
        begins = start + PREFIX_BYTES
        if self._inbox is None and begins <= stop:
            flag, size = _unpack(data, start)
            if begins + size == stop and not flag and size <= self._max_message:
                try:
                    handler.on_message(data[begins:stop])
                except Exception as error:
                    self._crash(error)
                return
        if start < stop:
            self._collect(memoryview(data)[start:stop])

    def _collect(self, piece: memoryview) -> None:
        link = self.link
        if self._inbox is None:
            self._inbox = bytearray()
        inbox = self._inbox
        inbox += piece
        link.inbox_bytes += len(piece)
        try:
            taken = self._take_messages(inbox)
        except MessageError as error:
            self.fail(error.status, error.message)
            return
        if self._inbox is None:
            return
        if taken == len(inbox):
            self._drop_inbox()
            return
        if taken:
            del inbox[:taken]
            link.inbox_bytes -= taken
        if link.inbox_bytes > link.limits.max_receive_buffer_bytes:
            self.fail(Status.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection")

    def _take_messages(self, inbox: bytearray) -> int:
        """Deliver every whole message; how many bytes they took. Raises MessageError."""
        pos, end = 0, len(inbox)
        while end - pos >= PREFIX_BYTES and self._handler is not None:
            flag, size = PREFIX.unpack_from(inbox, pos)
            self._check_prefix(flag, size)
            stop = pos + PREFIX_BYTES + size
            if stop > end:
                break
            with memoryview(inbox) as view:
                message = bytes(view[pos + PREFIX_BYTES : stop])
            pos = stop
            self._hand_message(grpc.gunzip(message, self._max_message) if flag else message)
        return pos

    def _check_prefix(self, flag: int, size: int) -> None:
        if size > self._max_message:
            raise grpc.too_large(size, self._max_message)
        if flag > 1:
            raise MessageError(Status.INTERNAL, f"message flag {flag} is neither 0 nor 1")
        if flag and self.head.facts.encoding == "identity":
            # compression.md: the flag without a grpc-encoding MUST be INTERNAL.
            raise MessageError(Status.INTERNAL, "compressed message without grpc-encoding")

    def _hand_message(self, message: bytes) -> None:
        if self._handler is None:
            return
        try:
            self._handler.on_message(message)
        except Exception as error:
            self._crash(error)

    def peer_ended(self) -> None:
        handler = self._handler
        if handler is None:
            return
        if self._inbox is not None:
            self.fail(Status.INTERNAL, "the request ends inside a message")
            return
        try:
            handler.on_half_close()
        except Exception as error:
            self._crash(error)

    def cut(self, code: int) -> None:
        handler = self._handler
        self._forget_handler()
        if handler is None:
            return
        try:
            handler.on_reset(code)
        except Exception as error:
            self._application.on_crash(self, error)

    def drained(self) -> None:
        if self._handler is None:
            return
        try:
            self._handler.on_writable()
        except Exception as error:
            self._crash(error)

    def fail(self, status: Status, message: str) -> None:
        """End the call from here: the status goes to the client, `on_reset` to the handler."""
        handler = self._handler
        self.finish(status, message)
        self._handler = handler
        self.cut(ErrorCode.CANCEL)

    def _crash(self, error: Exception) -> None:
        self.finish(Status.INTERNAL, "internal error")
        self._forget_handler()
        self._application.on_crash(self, error)

    def _forget_handler(self) -> None:
        self._handler = None
        if self._inbox is not None:
            self._drop_inbox()

    def _drop_inbox(self) -> None:
        if self._inbox is not None:
            self.link.inbox_bytes -= len(self._inbox)
            self._inbox = None
