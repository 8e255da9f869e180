"""Errors that mean something to the client: a code, a status, a message.

Whatever else is raised while a request is handled is a defect and becomes `Code.INTERNAL` without its text.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class Code(enum.Enum):
    """The Go EPP's error codes. The value is the word used in the reply's body and in the metric label."""

    BAD_REQUEST = "BadRequest"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    NOT_FOUND = "NotFound"
    PRECONDITION_FAILED = "PreconditionFailed"
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    UNSUPPORTED_MEDIA_TYPE = "UnsupportedMediaType"
    RESOURCE_EXHAUSTED = "ResourceExhausted"
    INTERNAL = "Internal"
    SERVICE_UNAVAILABLE = "ServiceUnavailable"
    MODEL_SERVER_ERROR = "ModelServerError"
    UNKNOWN = "Unknown"


HTTP_STATUS: Final[Mapping[Code, int]] = MappingProxyType(
    {
        Code.BAD_REQUEST: 400,
        Code.UNAUTHORIZED: 401,
        Code.FORBIDDEN: 403,
        Code.NOT_FOUND: 404,
        Code.PRECONDITION_FAILED: 412,
        Code.PAYLOAD_TOO_LARGE: 413,
        Code.UNSUPPORTED_MEDIA_TYPE: 415,
        Code.RESOURCE_EXHAUSTED: 429,
        Code.INTERNAL: 500,
        Code.SERVICE_UNAVAILABLE: 503,
        Code.MODEL_SERVER_ERROR: 502,
        Code.UNKNOWN: 500,
    }
)


class RequestError(Exception):
    """The request cannot be served; the client is told `code` and `message`. Raises TypeError where they are none.

    `headers` are added to the reply (for example the reason why a request was dropped). The message must hold nothing
    that a client may not see.
    """

    def __init__(self, code: Code, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        if not isinstance(code, Code) or not isinstance(message, str):
            raise TypeError(f"RequestError: expected a Code and a text, got {code!r} and {type(message).__name__}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers: Mapping[str, str] = headers or {}

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.code]

    @property
    def body(self) -> str:
        """The reply's body, in the form that clients of the Go EPP know: `inference error: <Code> - <message>`."""
        return f"inference error: {self.code.value} - {self.message}"


class ConfigError(Exception):
    """A plugin refuses its parameters or its surroundings. The text becomes one problem of the configuration report."""
