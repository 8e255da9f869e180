"""Error codes of HTTP/2 and the two typed failures of this room.

Everything a peer can do wrong ends as one of these; no other exception leaves the core because of received bytes.
"""

from enum import IntEnum


class ErrorCode(IntEnum):
    """Codes of RST_STREAM and GOAWAY (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """A rule of HTTP/2 was broken; `code` goes on the wire, `message` to GOAWAY's debug data and to the log."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class ConnectionFailure(Http2Error):
    """The connection cannot go on: GOAWAY, then close (RFC 9113, section 5.4.1)."""


class StreamFailure(Http2Error):
    """One stream cannot go on: RST_STREAM; the others are untouched (RFC 9113, section 5.4.2)."""
