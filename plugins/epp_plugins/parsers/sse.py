"""Server-sent events: the usage in a stream of them, and the model name in whole ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from epp.api import Usage
from epp_plugins.parsers.json_model import Edit, apply_edits, member_value, model_edits
from epp_plugins.parsers.lines import MarkedLines
from epp_plugins.parsers.usage import document_usage, merge

_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


class SseUsageReader:
    """Reads usage from the `data` lines that contain `mark`, in any split; later counts win, field by field."""

    __slots__ = ("_lines", "_read", "_usage")

    def __init__(self, *, mark: bytes = b'"usage"', read: Callable[[bytes], Usage | None] = document_usage) -> None:
        self._lines = MarkedLines(mark)
        self._read = read
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        if self._lines.passes(chunk):
            return
        for line in self._lines.feed(chunk):
            self._usage = merge(self._usage, self._line_usage(line))

    def finish(self) -> Usage | None:
        return merge(self._usage, self._line_usage(self._lines.rest()))

    def _line_usage(self, line: bytes) -> Usage | None:
        if not line.startswith(_DATA):
            return None
        data = line[len(_DATA) :].strip()
        return None if data == _DONE else self._read(data)


def restore_model_in_events(body: bytes, *, sent: str, asked: str, inner: bytes) -> bytes:
    """`body` with `sent` replaced by `asked` where an event's data name it: on top, or in their member `inner`."""
    edits: list[Edit] = []
    quoted = b'"%s"' % inner
    at = 0
    while at < len(body):
        end = body.find(b"\n", at)
        end = len(body) if end < 0 else end
        if body.startswith(_DATA, at):
            edits += _line_edits(body, at + len(_DATA), end, sent=sent, asked=asked, inner=quoted)
        at = end + 1
    return apply_edits(body, edits)


def _line_edits(body: bytes, start: int, end: int, *, sent: str, asked: str, inner: bytes) -> list[Edit]:
    edits = model_edits(body, start, end, sent=sent, asked=asked)
    if body.find(inner, start, end) >= 0:
        span = member_value(body, inner, start, end)
        if span is not None:
            edits += model_edits(body, *span, sent=sent, asked=asked)
            edits.sort()
    return edits
