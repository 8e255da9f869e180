"""Which endpoint is believed to hold which blocks of which prompts. No I/O, no clock; knows rows, not endpoints.

A prompt is a chain of blocks of several sizes (see `epp_plugins.prefix_chain`); all that is counted and all capacities are in
the smallest. For each block's hash the index keeps one integer with two bits a row: the row holds the block, and it has used it
again. For each row it keeps a ring of its hashes in the order in which they came. What a row drops is the next in its ring that
it has not used again ("second chance": least recently used but for the order among those in use). A lookup ANDs along the chain
and costs the same for one row as for a thousand.

What a pick puts into the index is not true before the engine has read the prompt. Until `settle` or `undo` says how that
went, the index counts for each such block the requests that bring it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from epp.api import Floats
from epp_plugins.prefix_chain import LARGEST_SIZE, SIZE_SHIFT, Chain, beginning, size_of

# One dict of millions of hashes stops everything for seconds when it grows; a part of 256 grows in milliseconds.
_PARTS: Final = 256
_PART_OF: Final = _PARTS - 1
# From this many rows on, spreading a bit mask with numpy is cheaper than walking its bits.
_MANY_ROWS: Final = 8
# Used blocks that are passed over for each one that is dropped.
_CHANCES: Final = 16
# Blocks dropped beyond what a call adds, when a row's capacity has become smaller.
_DROPPED_AT_ONCE: Final = 256
# Measured (bench_prefix_index): a hash, its place in a dict, one in a ring, and what lies idle between them.
_BLOCK_BYTES: Final = 90


class _Row:
    """What one row holds. `ring[head:]` are its blocks, and for each of `dropped` as many left-overs that count no more."""

    __slots__ = ("both", "count", "dropped", "head", "held", "ring", "unsettled", "used")

    def __init__(self, row: int) -> None:
        self.held = 1 << 2 * row
        self.used = 2 << 2 * row
        self.both = 3 << 2 * row
        self.ring = array("Q")
        self.head = 0
        self.count = 0
        self.dropped: dict[int, int] = {}
        self.unsettled: dict[int, int] = {}  # block, held -> requests under way that bring it


class PrefixIndex:
    """Holders of each block, and blocks of each holder in the order in which they came."""

    __slots__ = ("_every", "_every_row", "_parts", "_rows", "_size")

    def __init__(self) -> None:
        self._parts: tuple[dict[int, int], ...] = tuple({} for _ in range(_PARTS))  # block -> two bits a row
        self._rows: dict[int, _Row] = {}
        self._size = 0
        self._every_row = 0  # one more than the highest row there has been
        self._every = 0  # the `held` bits of all rows below

    def __len__(self) -> int:
        """What is held, counted once for each row that holds it."""
        return self._size

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, roughly, from above: blocks held by several rows share more than this counts."""
        return sum(len(known.ring) - known.head for known in self._rows.values()) * _BLOCK_BYTES

    def held_by(self, row: int) -> int:
        """Blocks that `row` holds."""
        found = self._rows.get(row)
        return 0 if found is None else found.count

    def count_matches(self, chain: Chain, matched: Floats) -> None:
        """Add to `matched` (indexed by row) how much of the beginning of `chain` each row holds without a gap."""
        parts = self._parts
        holders = self._every
        for number, block in enumerate(chain.blocks):
            left = holders & parts[block & _PART_OF].get(block, 0)
            if left != holders:
                if number:
                    depth, after = chain.depth(number), chain.before(number)
                    self._count_parts(chain, depth, block >> SIZE_SHIFT, after, holders ^ left, matched)
                holders = left
                if not left:
                    return
        if chain.size:
            _add_for_rows(matched, holders, chain.size)

    def insert(self, row: int, chain: Sequence[int], *, capacity: int) -> list[int]:
        """Let `row` hold the blocks of `chain`, dropping what it has not used for longest beyond `capacity`.

        Returns the blocks that are not settled: hand them to `settle` when the engine has read the prompt, to `undo` when it
        will not. The beginning of a chain counts as newer than its end, so that the end is dropped first, as engines do: a
        beginning is of use without the end, an end without the beginning is not.
        """
        known = self._rows.get(row) or self._add_row(row)
        held, used, both, unsettled = known.held, known.used, known.both, known.unsettled
        parts = self._parts
        added: list[int] = []
        shared: list[int] = []
        if len(chain) * LARGEST_SIZE > capacity:  # it may be longer than that
            chain = beginning(chain, capacity)
        new = 0
        for block in reversed(chain):
            part = parts[block & _PART_OF]
            holders = part.get(block, 0)
            if not holders & held:
                # Blocks of a single row share one integer.
                part[block] = holders | held if holders else held
                added.append(block)
                new += 1 << (block >> SIZE_SHIFT)
                continue
            if not holders & used:
                part[block] = both if holders == held else holders | used
            if unsettled and block in unsettled:
                unsettled[block] += 1
                shared.append(block)
        # Before the new ones come: those that go round once more would drop them.
        if known.count > capacity - new:
            self._drop_some(known, max(capacity - new, known.count - new - _DROPPED_AT_ONCE), spared=len(chain))
        if added:
            unsettled.update(dict.fromkeys(added, 1))
            known.ring.extend(added)
            known.count += new
            self._size += new
        return added + shared if shared else added

    def is_settled(self, row: int, block: int) -> bool:
        """An engine has read `block` there: no request that brings it is under way."""
        known = self._rows.get(row)
        return known is None or block not in known.unsettled

    def settle(self, row: int, blocks: Sequence[int]) -> None:
        """The engine has read a prompt of which `insert` returned `blocks`."""
        known = self._rows.get(row)
        if known is not None:
            forget = known.unsettled.pop
            for block in blocks:
                forget(block, None)

    def undo(self, row: int, blocks: Sequence[int]) -> None:
        """The engine has not read a prompt of which `insert` returned `blocks`: drop those that no other request brings."""
        known = self._rows.get(row)
        if known is None:
            return
        unsettled = known.unsettled
        for block in blocks:
            others = unsettled.get(block, 0) - 1
            if others > 0:
                unsettled[block] = others
            elif others == 0:
                del unsettled[block]
                self._let_go(known, block)

    def shrink(self, row: int, capacity: int) -> int:
        """Let `row` drop what it has not used for longest, down to `capacity` blocks. How many it dropped."""
        known = self._rows.get(row)
        if known is None:
            return 0
        before = known.count
        if before > capacity:
            self._drop_some(known, capacity)
        return before - known.count

    def remove(self, row: int) -> None:
        """Forget everything about `row`. Costs its blocks, not the index."""
        known = self._rows.pop(row, None)
        if known is None:
            return
        parts, held, both = self._parts, known.held, known.both
        # Not `_let_go`: a full row has tens of thousands of blocks, and the caller waits.
        for block in known.ring[known.head :]:
            part = parts[block & _PART_OF]
            holders = part.get(block, 0)
            if holders & held:
                left = holders & ~both
                if left:
                    part[block] = left
                else:
                    del part[block]
        self._size -= known.count

    def give_up(self) -> Iterator[None]:
        """Forget everything, a part at each step: freeing millions of blocks at once would hold up requests."""
        self._size = self._every = self._every_row = 0
        self._rows.clear()
        for part in self._parts:
            part.clear()
            yield

    # --- saving --------------------------------------------------------------------------------------------------------------

    def blocks_of(self, row: int) -> array[int]:
        """The settled blocks of `row`, those that will be dropped first at the front."""
        known = self._rows.get(row)
        if known is None:
            return array("Q")
        blocks = known.ring[known.head :]
        if not known.dropped and not known.unsettled:
            return blocks
        dropped, unsettled = dict(known.dropped), known.unsettled
        kept = array("Q")
        for block in blocks:
            if block in dropped:  # the left-overs of a block come before the block itself
                dropped[block] -= 1
                if not dropped[block]:
                    del dropped[block]
            elif block not in unsettled:
                kept.append(block)
        return kept

    def restore(self, row: int, blocks: Sequence[int], *, capacity: int) -> None:
        """Let `row`, which holds nothing, hold the last of `blocks` within `capacity`, in their order, all of them settled."""
        known = self._rows.get(row) or self._add_row(row)
        parts, held = self._parts, known.held
        new = 0
        for block in beginning(blocks[::-1], capacity)[::-1]:
            part = parts[block & _PART_OF]
            holders = part.get(block, 0)
            if not holders & held:
                part[block] = holders | held if holders else held
                known.ring.append(block)
                new += 1 << (block >> SIZE_SHIFT)
        known.count += new
        self._size += new

    # --- inside --------------------------------------------------------------------------------------------------------------

    def _count_parts(self, chain: Chain, depth: int, level: int, after: int, rows: int, matched: Floats) -> None:
        """Count for `rows`, which hold all before `depth`, and not the block of 2 ** `level` there; perhaps its beginning.

        Where a shorter prompt ended, it left smaller blocks, which a longer one has not.
        """
        for smaller in reversed(range(level)):
            block = chain.part(depth, smaller, after=after)
            having = rows & self._parts[block & _PART_OF].get(block, 0)
            if having:
                self._count_parts(chain, depth + (1 << smaller), smaller, block, having, matched)
                rows ^= having
                if not rows:
                    return
        _add_for_rows(matched, rows, depth)

    def _add_row(self, row: int) -> _Row:
        known = self._rows[row] = _Row(row)
        while row >= self._every_row:
            self._every |= 1 << 2 * self._every_row
            self._every_row += 1
        return known

    def _drop_some(self, known: _Row, capacity: int, *, spared: int = 0) -> None:
        """Drop blocks that come next in the ring, down to `capacity`; those used again go round once more.

        Of those, `spared` and a few for each that is dropped: no call goes round a whole ring of a hundred thousand.
        """
        ring, held, used, keep = known.ring, known.held, known.used, ~known.both
        dropped, unsettled, parts = known.dropped, known.unsettled, self._parts
        head, too_many = known.head, known.count - capacity
        chances = spared + _CHANCES * too_many
        asked = too_many
        while too_many > 0:
            block = ring[head]
            head += 1
            if dropped and block in dropped:
                dropped[block] -= 1
                if not dropped[block]:
                    del dropped[block]
                continue
            part = parts[block & _PART_OF]
            holders = part[block]
            if holders & used and chances:
                chances -= 1
                left = holders ^ used
                part[block] = held if left == held else left
                ring.append(block)
                continue
            too_many -= 1 << (block >> SIZE_SHIFT)
            left = holders & keep
            if left:
                part[block] = left
            else:
                del part[block]
            if unsettled:
                unsettled.pop(block, None)
        known.count -= asked - too_many
        self._size -= asked - too_many
        if head > len(ring) // 2:
            del ring[:head]
            head = 0
        known.head = head

    def _let_go(self, known: _Row, block: int) -> None:
        """Drop a block that the row holds. It stays in the ring."""
        part = self._parts[block & _PART_OF]
        left = part[block] & ~known.both
        if left:
            part[block] = left
        else:
            del part[block]
        known.dropped[block] = known.dropped.get(block, 0) + 1
        size = size_of(block)
        known.count -= size
        self._size -= size


def _add_for_rows(vector: Floats, holders: int, amount: int) -> None:
    """Add `amount` to the elements of `vector` whose `held` bits are set in `holders`."""
    if holders.bit_count() >= _MANY_ROWS:
        packed = np.frombuffer(holders.to_bytes((holders.bit_length() + 7) // 8, "little"), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little", count=2 * len(vector))[::2]
        vector += bits if amount == 1 else bits * float(amount)
        return
    while holders:
        lowest = holders & -holders
        vector[lowest.bit_length() >> 1] += amount
        holders ^= lowest
