"""Tells when a response has its first token. Headers are none, nor are events that only open a stream, such as the role."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_DATA: Final = b"data:"
_MOST_KEPT_BYTES: Final = 65536
# Events of the Messages and the Responses API that come before anything is generated.
_OPENING: Final = frozenset(
    {
        "message_start",
        "content_block_start",
        "ping",
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_part.added",
        "response.reasoning_summary_part.added",
    }
)
_decode = msgspec.json.Decoder().decode


class FirstToken:
    """Reads the pieces of one streamed response, in any split, until something generated has come.

    What it does not understand counts as generated: a stream of another kind has no role to begin with.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def is_in(self, piece: bytes) -> bool:
        """Whether the first token has come with the events that `piece` completes."""
        lines = (self._rest + piece if self._rest else piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _MOST_KEPT_BYTES:
            return True
        return any(map(_is_generated, lines)) or _is_no_event(self._rest)


def _is_no_event(line: bytes) -> bool:
    """Whether no event of a stream begins like this, so that there is no use in waiting for its end."""
    return line[:1] not in (b"", b"d", b"e", b"i", b"r", b":")


def _is_generated(line: bytes) -> bool:
    if not line.startswith(_DATA):
        return _is_no_event(line.lstrip(b"\r"))
    try:
        event = _decode(line[len(_DATA) :])
    except msgspec.DecodeError:
        return True
    if not isinstance(event, dict):
        return True
    if isinstance(choices := event.get("choices"), list):
        return any(map(_has_content, choices))
    return event.get("type") not in _OPENING


def _has_content(choice: Any) -> bool:
    if not isinstance(choice, dict) or choice.get("text") or choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
