"""Changes what a response says: gives it the model name back that the client asked for, adds what a client wants to know.

A JSON response is kept until it has ended, an event stream until each event has: a name may be split over two chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
# A single event this long is not one that names a model near its start; it is passed on as it came.
_MAX_EVENT_BYTES: Final = 4 * 1024 * 1024

Replace = Callable[[bytes], bytes]


class Restorer(Protocol):
    """Maps the chunks of a body to the chunks that are sent on."""

    def feed(self, chunk: bytes, *, last: bool) -> bytes: ...


class WholeRestorer:
    """For a body that is one document."""

    def __init__(self, replace: Replace) -> None:
        self._replace = replace
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes, *, last: bool) -> bytes:
        if chunk:
            self._chunks.append(chunk)
        if not last:
            return b""
        whole, self._chunks = b"".join(self._chunks), []
        return self._replace(whole) if whole else whole


class EventRestorer:
    """For a server-sent event stream: whole events are sent on, a begun one is kept."""

    def __init__(self, replace: Replace) -> None:
        self._replace = replace
        self._begun = b""

    def feed(self, chunk: bytes, *, last: bool) -> bytes:
        data = self._begun + chunk if self._begun else chunk
        if last or len(data) > _MAX_EVENT_BYTES:
            self._begun = b""
            return self._replace(data) if data else data
        end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _EVENT_ENDS)
        self._begun = data[end:]
        return self._replace(data[:end]) if end else b""
