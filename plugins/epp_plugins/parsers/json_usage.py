"""The usage in one JSON document that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from epp.api import Usage
from epp_plugins.parsers.json_model import value_end
from epp_plugins.parsers.usage import document_usage, usage_value

MAX_BYTES: Final = 4 << 20
TAIL_BYTES: Final = 64 << 10
_USAGE: Final = re.compile(rb'(?<!\\)"usage"[ \t\r\n]*:[ \t\r\n]*(?=\{)')


class JsonUsageReader:
    """Keeps the document up to MAX_BYTES; of a longer one (embeddings) its end, where servers write the usage."""

    __slots__ = ("_cut", "_kept", "_read")

    def __init__(self, *, read: Callable[[bytes], Usage | None] = document_usage) -> None:
        self._kept = bytearray()
        self._cut = False
        self._read = read

    def feed(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > MAX_BYTES:
            self._cut = True
            del self._kept[:-TAIL_BYTES]

    def finish(self) -> Usage | None:
        data = bytes(self._kept)
        return _usage_near_the_end(data[-TAIL_BYTES:]) if self._cut else self._read(data)


def _usage_near_the_end(tail: bytes) -> Usage | None:
    """The last `"usage": {...}` of `tail`. A bare quote cannot stand inside a string, so this is no generated text."""
    start = -1
    for match in _USAGE.finditer(tail):
        start = match.end()
    end = None if start < 0 else value_end(tail, start)
    return None if end is None else usage_value(tail[start:end])
