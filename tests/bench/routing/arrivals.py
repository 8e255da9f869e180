"""Requests of a recorded trace: when they come, what their prompts are, how long their answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

_BLOCK_TOKENS: Final = 512  # of the trace's hash_ids
_BLOCK_BYTES: Final = 4 * _BLOCK_TOKENS
_TICK_S: Final = 3.0  # the trace's times come in steps of this


class Line(msgspec.Struct, frozen=True):
    """One request of the trace. Equal `hash_ids` at the beginning mean an equal prefix."""

    timestamp: int  # ms
    input_length: int  # tokens
    output_length: int
    hash_ids: tuple[int, ...]


class Arrival(msgspec.Struct, frozen=True):
    """A request that comes at `at_s`."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]

    def prompt(self) -> bytes:
        """Four bytes a token; made anew each time, so that a long trace does not lie in memory."""
        return b"".join(map(_block, self.hash_ids))[: 4 * self.prompt_tokens]


def read_trace(path: Path, *, first: int = 0, count: int | None = None) -> list[Line]:
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as file:
        return [decode(line) for line in islice(file, first, None if count is None else first + count)]


def arrivals(lines: list[Line], *, speedup: float, output_share: float, seed: int) -> list[Arrival]:
    """`lines` `speedup` times as fast, with answers of `output_share` of their length.

    Times within one step of the trace are drawn at random from it, by `seed`.
    """
    return sorted(_spread(lines, speedup, output_share, random.Random(seed)), key=lambda arrival: arrival.at_s)


def _spread(lines: list[Line], speedup: float, output_share: float, chance: random.Random) -> Iterator[Arrival]:
    begin_s = lines[0].timestamp / 1000 if lines else 0.0
    for line in lines:
        at_s = (line.timestamp / 1000 - begin_s + _TICK_S * chance.random()) / speedup
        output = max(1, round(line.output_length * output_share))
        yield Arrival(at_s, line.input_length, output, line.hash_ids)


@lru_cache(maxsize=65536)
def _block(number: int) -> bytes:
    # Not the same eight bytes again and again: blocks must differ wherever they are cut.
    return b"".join(b"%06x%02x" % (number, i) for i in range(_BLOCK_BYTES // 8))
