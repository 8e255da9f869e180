"""Which events of a streamed response bring generated content, without parsing them.

A model server's stream also has events that bring none: a role before the first token, a finish reason, usage, `[DONE]`,
comments. An event brings content if one of the fields in which servers put what was generated holds a string that is not
empty, or token ids. A quote inside a JSON string is escaped, so no generated text can look like such a field.
"""

from __future__ import annotations

import re
from typing import Final

# OpenAI's chat, completions and responses, Anthropic's messages, vLLM's reasoning and token ids, SGLang's own.
_TEXTS: Final = rb"content|text|delta|reasoning_content|reasoning|thinking|refusal|arguments|partial_json|name"
_CONTENT: Final = re.compile(rb'"(?:%s)"[ \t]*:[ \t]*"[^"]|"(?:token_ids|output_ids)"[ \t]*:[ \t]*\[[ \t]*\d' % _TEXTS)
_LONGEST_FIELD: Final = 64
_search: Final = _CONTENT.search


class EventContent:
    """Counts events with content in one stream of server-sent events that comes in any split. Keeps 64 bytes at most."""

    __slots__ = ("_begun", "_counted", "_tail")

    def __init__(self) -> None:
        self._begun = False  # the last line has no end yet
        self._counted = False  # and has brought content already
        self._tail = b""

    def feed(self, chunk: bytes) -> int:
        """How many events with content begin to show in `chunk`."""
        if not self._begun and chunk.endswith(b"\n"):
            if chunk.count(b"data:") < 2:
                return 0 if _search(chunk) is None else 1
            return sum([1 for line in chunk.split(b"\n") if _search(line) is not None])
        *ended, last = chunk.split(b"\n")
        count = 0
        for line in ended:
            count += self._more(line)
            self._counted, self._tail = False, b""
        count += self._more(last)
        self._begun = bool(last) or (self._begun and not ended)
        return count

    def _more(self, part: bytes) -> int:
        """`part` belongs to the last line. Whether it now shows content that it did not before."""
        if self._counted or not part:
            return 0
        seen = self._tail + part
        if _search(seen) is not None:
            self._counted = True
            return 1
        self._tail = seen[-_LONGEST_FIELD:]
        return 0


class EveryPiece:
    """For streams of frames, as of gRPC, where each piece brings content."""

    __slots__ = ()

    def feed(self, chunk: bytes) -> int:
        return 1 if chunk else 0
