"""Tokens of prompts that were tokenized before, the least recently used dropped first. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import xxhash

from epp.api import Medium, Prompt
from epp_plugins.parsers.prompts import MESSAGE

_ENTRY_BYTES: Final = 256  # of an entry besides its tokens, roughly


class Known:
    """What one request's prompts are in tokens; `complete` is false where it is only the beginning of them."""

    __slots__ = ("complete", "media", "prompts", "size_bytes")

    def __init__(self, prompts: tuple[Prompt, ...], media: tuple[Medium, ...] = (), *, complete: bool = True) -> None:
        self.prompts = prompts
        self.media = media
        self.complete = complete
        self.size_bytes = _ENTRY_BYTES + sum(len(p.data) for p in prompts)


class KnownTokens:
    """At most `capacity_bytes` of tokens."""

    def __init__(self, *, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[bytes, Known] = OrderedDict()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def get(self, key: bytes) -> Known | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, known: Known) -> None:
        self._discard(key)
        if known.size_bytes > self._capacity_bytes:
            return
        self._entries[key] = known
        self._size_bytes += known.size_bytes
        while self._size_bytes > self._capacity_bytes:
            self._discard(next(iter(self._entries)))

    def beginning(self, kind: str, prompts: Sequence[Prompt]) -> Known | None:
        """Of one conversation, the tokens of its longest earlier state that is known: it went on from there.

        The last of those tokens may belong to what the template adds for the answer, and not be part of what follows.
        """
        if len(prompts) != 1 or prompts[0].tokenized:
            return None
        data = prompts[0].data
        digest = _digest(kind)
        found: Known | None = None
        at = 0
        while (end := data.find(MESSAGE, at + 1)) >= 0:
            digest.update(data[at:end])
            found = self._entries.get(digest.digest(), found)
            at = end
        return found and Known(found.prompts, found.media, complete=False)

    def _discard(self, key: bytes) -> None:
        known = self._entries.pop(key, None)
        if known is not None:
            self._size_bytes -= known.size_bytes


def key_of(kind: str, prompts: Sequence[Prompt], *, apart: bytes = b"") -> bytes:
    """The key of one request's prompts: of equal kind (the path they came on), equal text and equal `apart`, equal tokens."""
    digest = _digest(kind)
    for number, prompt in enumerate(prompts):
        if number:
            digest.update(b"\0")
        digest.update(prompt.data)
        if prompt.size_bytes > len(
            prompt.data
        ):  # only its beginning is kept: lengths alone do not tell two texts apart
            return b""
    if apart:
        digest.update(b"\0\0")
        digest.update(apart)
    return digest.digest()


def _digest(kind: str) -> xxhash.xxh3_128:
    return xxhash.xxh3_128(kind.encode() + b"\0")
