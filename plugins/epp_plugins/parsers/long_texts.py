"""Bodies of many megabytes with the texts cut that no prompt has room for, before they become Python texts.

A text with escapes is in memory once more while it is decoded, and one with a single character beyond U+FFFF takes four bytes
for each of its characters: a body of 100 MB would take half a gigabyte.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from epp_plugins.parsers.prompts import KEPT_BYTES

LONG_BODY_BYTES: Final = 2 * KEPT_BYTES
"""Of shorter ones nothing is cut."""
# What remains of such texts: twice what is kept of prompts, since an escape is longer than what it stands for.
_LEFT_BYTES: Final = 2 * KEPT_BYTES
# And this much of each beyond.
_LEAST_BYTES: Final = 4096
_SAMPLE_BYTES: Final = 65_536
# A body of more is one of tiny texts.
_MOST_TEXTS: Final = 10_000
# From quote to quote, over those behind one, three, five or seven backslashes: several times as fast as over each escape.
_TEXT: Final = re.compile(
    rb'"[^"]*+(?:(?:' + rb"|".join(rb"(?<=[^\\]\\{%d})" % odd for odd in (1, 3, 5, 7)) + rb')"[^"]*+)*+"'
)
_TOO_MANY_BACKSLASHES: Final = b"\\" * 8
_WIDE: Final = re.compile(rb"[\\\x80-\xff]")
# The last place that is neither within an escape nor within a character.
_END: Final = re.compile(rb".*(?:[ ,.;:()]|(?=[\xc2-\xf4]))", re.DOTALL)


def is_long(body: bytes) -> bool:
    """Whether there may be anything to cut."""
    return len(body) >= LONG_BODY_BYTES and (b"\\" in body or not body.isascii())


def cut(body: bytes) -> tuple[bytes, int]:
    """`body`, which is valid JSON, with texts cut that take more memory than their bytes; and how many bytes of text that
    leaves out, roughly."""
    view = memoryview(body)
    pieces, copied = [], 0
    left, left_out = _LEFT_BYTES, 0
    for text in islice(_TEXT.finditer(body), _MOST_TEXTS):
        start, end = text.start() + 1, text.end() - 1
        if body.endswith(_TOO_MANY_BACKSLASHES, start, end):
            break  # nobody knows whether the text is over
        size, room = end - start, max(left, _LEAST_BYTES)
        is_wide = size <= _LEAST_BYTES or _WIDE.search(body, start, end) is not None
        if not is_wide or body[end + 1 : end + 2] == b":":
            continue
        if size <= room:
            left -= size
            continue
        place = start + room
        found = _END.match(body[place - _LEAST_BYTES : place])
        if found is None or not found.end():
            continue  # such as the data of an image
        left = 0
        place += found.end() - _LEAST_BYTES
        pieces.append(view[copied:place])
        copied = end
        left_out += round((end - place) * _text_share(body[max(start, place - _SAMPLE_BYTES) : place]))
    if not pieces:
        return body, 0
    return b"".join([*pieces, view[copied:]]), left_out


def _text_share(raw: bytes) -> float:
    """Bytes of text for each byte of JSON: \\n stands for one, \\u20ac for three."""
    return (len(raw) - raw.count(b"\\") - 2 * raw.count(b"\\u")) / len(raw)
