"""Which endpoint is believed to hold which blocks of which prompts. No I/O, no clock; knows rows, not endpoints.

A prompt is a chain of block hashes: each covers its block and all before it, so one equal hash means an equal beginning.
For each hash the index keeps one integer whose bits are the rows that hold it; for each row, its hashes from the least to
the most recently used. A lookup ANDs along the chain and costs the same for one row as for a thousand.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from xxhash import xxh3_64_intdigest

from epp.api import Floats

# From this many rows on, spreading a bit mask with numpy is cheaper than walking its bits.
_MANY_ROWS = 8


def chain_seed(model: str, cache_salt: str) -> int:
    """Where chains start: blocks of different models or salts never match."""
    return xxh3_64_intdigest(f"{model}\0{cache_salt}".encode("utf-8", "surrogatepass"))


def block_chain(data: bytes, *, block_bytes: int, seed: int, limit: int | None = None) -> list[int]:
    """Hashes of the whole blocks of `data`, at most `limit`; a shorter rest is left out, as engines cache whole blocks only."""
    blocks = len(data) // block_bytes
    if limit is not None:
        blocks = min(blocks, limit)
    chain = []
    for start in range(0, blocks * block_bytes, block_bytes):
        seed = xxh3_64_intdigest(data[start : start + block_bytes], seed)
        chain.append(seed)
    return chain


class PrefixIndex:
    """Holders of each block, and blocks of each holder, least recently used first."""

    __slots__ = ("_blocks", "_holders", "_size")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}  # block hash -> bit mask of rows
        self._blocks: dict[int, OrderedDict[int, None]] = {}  # row -> block hashes
        self._size = 0

    def __len__(self) -> int:
        """Blocks held, counted once for each row that holds them."""
        return self._size

    def held_by(self, row: int) -> int:
        """Blocks that `row` holds."""
        return len(self._blocks.get(row, ()))

    def count_matches(self, chain: Sequence[int], matched: Floats) -> None:
        """Add to `matched` (indexed by row) how many leading blocks of `chain` each row holds without a gap."""
        if not chain:
            return
        find = self._holders.get
        holders = find(chain[0], 0)
        for depth, block in enumerate(chain):
            left = holders & find(block, 0)
            if left != holders:
                if depth:
                    _add_for_rows(matched, holders ^ left, depth)
                holders = left
            if not left:
                return
        _add_for_rows(matched, holders, len(chain))

    def insert(self, row: int, chain: Sequence[int], *, capacity: int) -> list[int]:
        """Let `row` hold `chain`, dropping what it used longest ago beyond `capacity` blocks.

        Returns the blocks that it did not hold before. The beginning of a chain counts as used after its end, so that the
        end is dropped first, as engines do: a beginning is of use without the end, an end without the beginning is not.
        """
        blocks = self._blocks.setdefault(row, OrderedDict())
        holders = self._holders
        bit = 1 << row
        added = []
        for block in reversed(chain[:capacity]):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
                holders[block] = holders.get(block, 0) | bit
                added.append(block)
        self._size += len(added)
        while len(blocks) > capacity:
            self._let_go(blocks.popitem(last=False)[0], bit)
        return added

    def discard(self, row: int, blocks: Sequence[int]) -> None:
        """Let `row` hold none of `blocks` any more; those that it does not hold are ignored."""
        held = self._blocks.get(row)
        if held is None:
            return
        for block in blocks:
            if block in held:
                del held[block]
                self._let_go(block, 1 << row)

    def remove(self, row: int) -> None:
        """Forget everything about `row`. Costs its blocks, not the index."""
        blocks = self._blocks.pop(row, None)
        if blocks is None:
            return
        self._size -= len(blocks)
        holders, bit = self._holders, 1 << row
        # Not `_let_go`: a full row has tens of thousands of blocks, and the caller waits.
        for block in blocks:
            left = holders.pop(block) ^ bit
            if left:
                holders[block] = left

    def _let_go(self, block: int, bit: int) -> None:
        self._size -= 1
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]


def _add_for_rows(vector: Floats, rows: int, amount: int) -> None:
    """Add `amount` to the elements of `vector` whose bits are set in `rows`."""
    if rows.bit_count() >= _MANY_ROWS:
        packed = np.frombuffer(rows.to_bytes((rows.bit_length() + 7) // 8, "little"), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little", count=len(vector))
        vector += bits if amount == 1 else bits * float(amount)
        return
    while rows:
        lowest = rows & -rows
        vector[lowest.bit_length() - 1] += amount
        rows ^= lowest
