"""Replaces the value of the `model` member of a JSON object, and leaves every other byte as it was.

Nothing is decoded and written again: the members called `model` are found by their bytes, and only their values are
replaced. A bare quote cannot stand inside a JSON string, so `"model"` followed by a colon and not preceded by a
backslash is always a key; what is left is to count brackets from the nearer end to see at which depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

Span: TypeAlias = tuple[int, int]  # [start, end) in bytes
Edit: TypeAlias = tuple[int, int, bytes]  # replace [start, end)

_PLAIN_KEY: Final = b'"model"'
# Every letter of `model` is U+006x, so a key that hides it behind escapes holds this.
_ESCAPE_OF_A_LETTER: Final = b"\\u006"
_KEY: Final = re.compile(rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"')
_BACKSLASH: Final = 0x5C
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
# Strings, closed or cut off, and brackets. Possessive, so that no input makes it backtrack.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+\\?"?|[\[\]{}]', re.DOTALL)
_SCALAR: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^][{}",: \t\r\n]++', re.DOTALL)
_OPENING: Final = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*")


def replace_model(body: bytes, model: str) -> bytes:
    """`body`, a JSON object, with every top-level `model` set to `model`; without one, it becomes the first member."""
    value = _encoded(model)
    spans = model_values(body)
    if spans:
        return apply_edits(body, [(start, end, value) for start, end in spans])
    opening = _OPENING.match(body)
    if opening is None:
        return body
    at = body.index(b"{") + 1
    comma = b"" if body[opening.end() : opening.end() + 1] == b"}" else b","
    return b"".join((body[:at], b'"model":', value, comma, body[at:]))


def restore_model(body: bytes, *, sent: str, asked: str) -> bytes:
    """`body`, a JSON object, with a top-level `model` of value `sent` set to `asked`."""
    return apply_edits(body, model_edits(body, 0, len(body), sent=sent, asked=asked))


def model_edits(data: bytes, start: int, end: int, *, sent: str, asked: str) -> list[Edit]:
    """The edits that name `asked` where the JSON object in `data[start:end]` names `sent`."""
    edits = []
    for first, last in model_values(data, start, end):
        if _equals(data[first:last], sent):
            edits.append((first, last, _encoded(asked)))
    return edits


def model_values(data: bytes, start: int = 0, end: int | None = None) -> list[Span]:
    """Where the values of the top-level `model` members of the JSON object in `data[start:end]` are."""
    end = len(data) if end is None else end
    return list(_top_level_values(data, _model_keys(data, start, end), start, end))


def member_value(data: bytes, quoted: bytes, start: int, end: int) -> Span | None:
    """Where the value of the first top-level member is whose key reads `quoted`, such as `"response"`."""
    return next(_top_level_values(data, _keys(data, quoted, start, end), start, end), None)


def value_end(data: bytes, start: int) -> int | None:
    """Where the JSON value that begins at `start` ends; None when it is cut off or is no value."""
    return _value_end(data, start, len(data))


def apply_edits(data: bytes, edits: list[Edit]) -> bytes:
    """`data` with each range replaced. The ranges are in order and do not overlap."""
    if not edits:
        return data
    pieces: list[bytes | memoryview] = []
    view = memoryview(data)  # a large body is not to be in memory three times
    at = 0
    for start, end, value in edits:
        pieces += (view[at:start], value)
        at = end
    pieces.append(view[at:])
    return b"".join(pieces)


def _top_level_values(data: bytes, keys: Iterable[Span], start: int, end: int) -> Iterator[Span]:
    """The values of those `keys` that belong to the outermost object. Every byte is looked at about once."""
    known, depth = start, 0  # `depth` brackets are open at `known`
    for key, after_key in keys:
        colon = _COLON.match(data, after_key, end)
        if colon is None:
            continue
        # Counting from the end holds for whole objects; a short way from the start is certain for cut-off ones too.
        if key - known <= max(end - key, 512):
            depth += 1 if known == start and _is_flat(data, start, key) else _opened(data, known, key)
        else:
            depth = -_opened(data, key, end)
        known = key
        value = _value_end(data, colon.end(), end) if depth == 1 else None
        if value is not None:
            yield colon.end(), value


def _model_keys(data: bytes, start: int, end: int) -> Iterable[Span]:
    if data.find(_ESCAPE_OF_A_LETTER, start, end) < 0:
        return _keys(data, _PLAIN_KEY, start, end)
    spans = (match.span() for match in _KEY.finditer(data, start, end))
    return (span for span in spans if span[0] == start or data[span[0] - 1] != _BACKSLASH)


def _keys(data: bytes, quoted: bytes, start: int, end: int) -> Iterator[Span]:
    """Where `quoted` stands outside of strings: its first quote is not an escaped one."""
    at = data.find(quoted, start, end)
    while at >= 0:
        if at == start or data[at - 1] != _BACKSLASH:
            yield at, at + len(quoted)
        at = data.find(quoted, at + len(quoted), end)


def _is_flat(data: bytes, start: int, end: int) -> bool:
    """Has the object that begins in `data[start:end]` nothing nested so far: the usual case, without looking at strings."""
    return data.count(b"{", start, end) == 1 and data.find(b"[", start, end) < 0 and data.find(b"}", start, end) < 0


def _opened(data: bytes, start: int, end: int) -> int:
    """Brackets opened less those closed in `data[start:end]`, which begins outside of strings."""
    opened = 0
    for match in _TOKEN.finditer(data, start, end):
        first = data[match.start()]
        if first in b"{[":
            opened += 1
        elif first != 0x22:
            opened -= 1
    return opened


def _value_end(data: bytes, start: int, end: int) -> int | None:
    if start < end and data[start] in b"{[":
        opened = 0
        for match in _TOKEN.finditer(data, start, end):
            first = data[match.start()]
            if first != 0x22:
                opened += 1 if first in b"{[" else -1
                if opened == 0:
                    return match.end()
        return None
    scalar = _SCALAR.match(data, start, end)
    return None if scalar is None else scalar.end()


def _encoded(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return json.dumps(text).encode()


def _equals(value: bytes, text: str) -> bool:
    if value[:1] != b'"':
        return False
    if b"\\" not in value:
        return value[1:-1] == text.encode(errors="replace")
    try:
        return bool(json.loads(value) == text)
    except ValueError:
        return False
