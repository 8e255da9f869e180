"""Prompts as chains of block hashes: each covers its block and all before it, so one equal hash means an equal beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from xxhash import xxh3_64_intdigest

# Python keeps integers of up to 60 bits in 32 bytes, longer ones in 48. The highest three tell a block's size.
HASH_BITS: Final = (1 << 60) - 1
SIZE_SHIFT: Final = 57
_DIGEST: Final = (1 << SIZE_SHIFT) - 1
_HIGHEST_LEVEL: Final = 7
LARGEST_SIZE: Final = 1 << _HIGHEST_LEVEL  # in smallest blocks
_SMALLEST_FIRST: Final = 64

_Blocks = TypeVar("_Blocks", bound=Sequence[int])


def chain_seed(model: str, cache_salt: str) -> int:
    """Where chains start: blocks of different models (adapters are models, too) or salts never match."""
    return xxh3_64_intdigest(f"{model}\0{cache_salt}".encode("utf-8", "surrogatepass"))


def block_chain(data: bytes, *, block_bytes: int, seed: int, limit: int | None = None) -> list[int]:
    """Hashes of the whole blocks of `data`, at most `limit`; a shorter rest is left out, as engines cache whole blocks only."""
    return _hashes(data, block_bytes, seed, _whole_blocks(data, block_bytes, limit))


def _whole_blocks(data: bytes, block_bytes: int, limit: int | None) -> int:
    blocks = len(data) // block_bytes
    return blocks if limit is None or blocks < limit else limit


def _hashes(data: bytes, block_bytes: int, seed: int, blocks: int) -> list[int]:
    chain = []
    for start in range(0, blocks * block_bytes, block_bytes):
        seed = xxh3_64_intdigest(data[start : start + block_bytes], seed) & _DIGEST
        chain.append(seed)
    return chain


def size_of(block: int) -> int:
    """How many of the smallest blocks it is as long as. Loops over many blocks have it inline: the call costs as much again."""
    return 1 << (block >> SIZE_SHIFT)


def beginning(blocks: _Blocks, size: int) -> _Blocks:
    """As many of the first `blocks` as have room in `size` of the smallest."""
    for number, block in enumerate(blocks):
        size -= 1 << (block >> SIZE_SHIFT)
        if size < 0:
            return blocks[:number]  # type: ignore[return-value]  # lists, arrays and tuples are cut into their own kind
    return blocks


class Chain:
    """One prompt, in blocks that grow with what is before them: `blocks` are their hashes, `size` counts the smallest ones.

    After 64 of the smallest, blocks are as long as 2, 4, 8, … 128 of them: a 64th to a 32nd of what is before them. So deep
    in a prompt a smaller step tells nothing that matters, and a hundred of them cost less than a thousand. What is left at the
    end is cut into ever smaller blocks, so that a longer prompt can find all of it, by `part`.
    """

    __slots__ = ("_block_bytes", "_data", "_seed", "blocks", "size")

    def __init__(self, data: bytes, *, block_bytes: int, seed: int, limit: int | None = None) -> None:
        self._data, self._block_bytes, self._seed = data, block_bytes, seed
        self.size = size = _whole_blocks(data, block_bytes, limit)
        if size <= _SMALLEST_FIRST:
            self.blocks = _hashes(data, block_bytes, seed, size)
            return
        self.blocks = blocks = _hashes(data, block_bytes, seed, _SMALLEST_FIRST)
        start, level, block = _SMALLEST_FIRST, 0, blocks[-1]
        while start < size:
            level = min(level + 1, _HIGHEST_LEVEL)
            stop = min(2 * start, size) if level < _HIGHEST_LEVEL else size
            if start + (1 << level) > stop:  # what is left at the end
                level = (stop - start).bit_length() - 1
            step, mark = block_bytes << level, level << SIZE_SHIFT
            count = stop - start >> level
            first = start * block_bytes
            for begin in range(first, first + count * step, step):
                block = xxh3_64_intdigest(data[begin : begin + step], block) & _DIGEST | mark
                blocks.append(block)
            start += count << level

    def part(self, start: int, level: int, *, after: int) -> int:
        """The hash of 2 ** `level` smallest blocks from `start` on, where the block before has the hash `after`."""
        size, end = self._block_bytes, start + (1 << level)
        return xxh3_64_intdigest(self._data[start * size : end * size], after) & _DIGEST | level << SIZE_SHIFT

    def before(self, number: int) -> int:
        """The hash that covers all before `blocks[number]`: what `part` needs to begin there."""
        return self.blocks[number - 1] if number else self._seed

    def depth(self, number: int) -> int:
        """How many smallest blocks there are before `blocks[number]`."""
        if number <= _SMALLEST_FIRST:
            return number
        return _SMALLEST_FIRST + sum(map(size_of, self.blocks[_SMALLEST_FIRST:number]))

    def last_within(self, size: int) -> int:
        """The last block that ends within the first `size` of the smallest, of which there are some."""
        if size <= _SMALLEST_FIRST:
            return self.blocks[size - 1]
        return beginning(self.blocks, size)[-1]
