"""Token ids as a prefix cache sees them: little-endian uint32, four bytes each."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any, Final

import numpy as np
import xxhash

from epp.api import Prompt

_BIG_ENDIAN: Final = sys.byteorder == "big"


def token_prompt(ids: Sequence[Any]) -> Prompt:
    """Raises ValueError when an id is no uint32."""
    try:
        packed = array("I", ids)
    except (OverflowError, TypeError):
        raise ValueError("a token id is no uint32") from None
    if _BIG_ENDIAN:
        packed.byteswap()
    return Prompt(packed.tobytes(), tokenized=True)


def with_media(prompt: Prompt, media: Iterable[tuple[int, int, str]]) -> Prompt:
    """`prompt` with the tokens of each (offset, length, content hash) told apart by that hash.

    The placeholders of all images are the same token, so equal ids alone would not mean equal input. Ranges are cut to
    the prompt.
    """
    ids = np.frombuffer(prompt.data, dtype="<u4").copy()
    for offset, length, content_hash in media:
        if 0 <= offset < ids.size and length > 0:
            digest = np.frombuffer(xxhash.xxh3_128_digest(content_hash.encode()), dtype="<u4")
            place = ids[offset : offset + length]
            place[:] = np.fromiter(islice(cycle(digest.tolist()), place.size), dtype="<u4", count=place.size)
    return Prompt(ids.tobytes(), tokenized=True)
