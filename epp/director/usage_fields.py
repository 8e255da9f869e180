"""Adds members to the `usage` of a response, and leaves every other byte as it was.

Nothing is decoded and written again: the bytes of the object are found, and the members put before its closing brace. Where
anything is not as expected, the bytes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

_USAGE: Final = b'"usage"'
_DATA: Final = b"data:"
_MOST_PLACES: Final = 8  # of bytes that look like the object, before it is given up


Members = Callable[[], bytes]
"""Makes `"a":1,"b":2`, when a usage has been found."""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Document(msgspec.Struct):
    """What has to be known of a response or a piece of one; everything else may be whatever it is."""

    usage: msgspec.Raw = msgspec.Raw()
    choices: list[_Choice] = []


_decode: Final = msgspec.json.Decoder(_Document).decode


def in_document(body: bytes, members: Members) -> bytes:
    """`body`, a JSON response, with `members` at the end of its usage."""
    return body if _USAGE not in body else _with_members(body, members, only_last=False)


def in_events(body: bytes, members: Members) -> bytes:
    """`body`, whole server-sent events, with `members` in the usage of the event that ends the answer.

    Servers may send usage with every event: the one counts that has no choice left, or one that says why it ended.
    """
    if _USAGE not in body:
        return body
    lines = body.splitlines(keepends=True)
    for i, line in enumerate(lines):
        if line.startswith(_DATA) and _USAGE in line:
            data = line[len(_DATA) :]
            lines[i] = _DATA + _with_members(data, members, only_last=True)
    return b"".join(lines)


def _with_members(document: bytes, members: Members, *, only_last: bool) -> bytes:
    try:
        return _spliced(document, members, only_last=only_last)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return document


def _spliced(document: bytes, members: Members, *, only_last: bool) -> bytes:
    found = _decode(document)
    usage = bytes(found.usage)
    if not usage.startswith(b"{"):
        return document
    if only_last and found.choices and all(choice.finish_reason is None for choice in found.choices):
        return document
    separator = b"" if not usage[1:-1].strip() else b","
    changed = b"%b%b%b}" % (usage[:-1], separator, members())
    at = -1
    for _ in range(_MOST_PLACES):
        at = document.find(usage, at + 1)
        if at < 0:
            break
        spliced = b"%b%b%b" % (document[:at], changed, document[at + len(usage) :])
        # An equal object may stand somewhere else: the right place is the one that changes the usage on top.
        if bytes(_decode(spliced).usage) == changed:
            return spliced
    return document
