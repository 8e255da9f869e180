"""The KV cache as a pool of blocks with a prefix cache over it. No I/O, no clock.

A block is referenced by the sequences that use it. A block that nobody references is free, and may still hold cached content:
it is found again by its hash until it is handed out anew, least recently freed first. Rules as vLLM's block pool.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Blocks are numbers, 1 to `total` - 1; block 0 is the null block, which is never handed out."""

    def __init__(self, total: int) -> None:
        self._usable = total - 1
        self._references = [0] * total
        self._hash_of: list[int | None] = [None] * total
        self._by_hash: dict[int, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, total))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self._usable - len(self._free)

    @property
    def cached(self) -> int:
        """Blocks found by hash, in use or not."""
        return len(self._by_hash)

    @property
    def usage(self) -> float:
        """Fraction 0..1 of blocks in use. Cached blocks that nobody references count as free."""
        return self.used / self._usable

    def match(self, hashes: Sequence[int], limit: int) -> list[int]:
        """The longest run of cached blocks from the start of a hash chain, at most `limit` of them."""
        found: list[int] = []
        for block_hash in hashes[:limit]:
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def fits(self, fresh: int, hits: Iterable[int]) -> bool:
        """Whether `fresh` blocks can be taken besides these hits, some of which may be free themselves."""
        return len(self._free) - sum(1 for block in hits if not self._references[block]) >= fresh

    def share(self, hits: Iterable[int]) -> None:
        for block in hits:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """`count` blocks with no content, evicting what they held. The caller has asked `fits`."""
        taken: list[int] = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            old = self._hash_of[block]
            if old is not None:
                del self._by_hash[old]
                self._hash_of[block] = None
            self._references[block] = 1
            taken.append(block)
        return taken

    def remember(self, block: int, block_hash: int) -> None:
        """Note the content of a block that became full. The first block with a given content keeps the name."""
        if block_hash not in self._by_hash:
            self._by_hash[block_hash] = block
            self._hash_of[block] = block_hash

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each. The end of a prefix becomes evictable before its beginning."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None
