"""The media in a prompt's canonical bytes: the marks and hashes that the parsers put there (see `parsers.prompts`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from epp.api import Prompt

MARK: Final = b"\xfd"
HASH_BYTES: Final = 16


def media_hashes(prompt: Prompt) -> Iterator[bytes]:
    """The content hash of each medium in what is kept of the prompt, in order; none where it came as token ids."""
    data = prompt.data
    if prompt.tokenized:
        return
    # No UTF-8 text holds the mark; hashes may, and are stepped over.
    at = data.find(MARK)
    while at >= 0:
        end = at + 1 + HASH_BYTES
        if end > len(data):
            return  # cut off: of a very long prompt only the beginning is kept
        yield data[at + 1 : end]
        at = data.find(MARK, end)
