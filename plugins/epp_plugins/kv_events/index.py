"""Which server holds which blocks at which tier of its cache, as the servers themselves tell. No I/O, no clock.

A source is one publisher: a data-parallel rank of one endpoint. It has a slot, a bit in the masks that say who holds a block.
A lookup walks the prompt's blocks once, for all sources together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from epp.api import Floats

# Entries of groups other than the first: their hashes are the same, and 64 bits long.
_GROUP_SHIFT: Final = 64


class Source:
    """What one publisher has told. Its members belong to the index."""

    __slots__ = ("bit", "copies", "held", "row", "slot", "twice")

    def __init__(self, slot: int, row: int, tiers: int) -> None:
        self.slot = slot
        self.bit = 1 << slot
        self.row = row
        # By tier: the engine's hash of each block, oldest first, and its key.
        self.held: tuple[dict[int, int], ...] = tuple({} for _ in range(tiers))
        # How often a block was told beyond the first time: engines tell of each copy, and of each copy's end.
        self.twice: tuple[dict[int, int], ...] = tuple({} for _ in range(tiers))
        # How many further hashes have the same key, as those of several groups of layers do.
        self.copies: tuple[dict[int, int], ...] = tuple({} for _ in range(tiers))

    def key_of(self, engine_hash: int) -> int | None:
        """The key of a block, at whichever tier it is."""
        for held in self.held:
            if engine_hash in held:
                return held[engine_hash]
        return None


class BlockIndex:
    """`tiers` by name with their weights; blocks at other tiers are not kept. At most `capacity` blocks in all."""

    def __init__(self, tiers: Mapping[str, float], *, capacity: int) -> None:
        ranked = sorted(tiers.items(), key=lambda item: -item[1])
        self.tiers: tuple[str, ...] = tuple(name for name, _ in ranked)
        self._weights = tuple(weight for _, weight in ranked)
        self._number = {name: i for i, name in enumerate(self.tiers)}
        self._holders: tuple[dict[int, int], ...] = tuple({} for _ in ranked)
        self._expected: dict[int, int] = {}  # blocks that picks have promised, by key: slots
        self._capacity = capacity
        self._sources: list[Source | None] = []
        self._rows = np.zeros(0, dtype=np.intp)
        self._one_each = True  # every slot has a row of its own
        self._size = 0
        self.dropped = 0  # blocks left out because the index was full

    def __len__(self) -> int:
        """Blocks held, counted once for each source and tier."""
        return self._size

    # --- sources -----------------------------------------------------------------------------------------------------

    def add_source(self, row: int) -> Source:
        """A publisher of the endpoint in `row`, which has told nothing so far."""
        slot = next((i for i, s in enumerate(self._sources) if s is None), len(self._sources))
        source = Source(slot, row, len(self.tiers))
        self._sources[slot : slot + 1] = [source]
        self._place_slots()
        return source

    def remove_source(self, source: Source) -> None:
        """Forget it. Costs its blocks, not the index."""
        self.clear(source)
        self._forget_expected(source.bit)
        self._sources[source.slot] = None
        self._place_slots()

    def _place_slots(self) -> None:
        rows = [0 if s is None else s.row for s in self._sources]
        self._rows = np.array(rows, dtype=np.intp)
        self._one_each = len(set(rows)) == len(rows)

    def clear(self, source: Source) -> None:
        """Let `source` hold nothing."""
        for tier, holders in enumerate(self._holders):
            for key in set(source.held[tier].values()):
                _take_bit(holders, key, source.bit)
            self._size -= len(source.held[tier])
            source.held[tier].clear()
            source.twice[tier].clear()
            source.copies[tier].clear()

    def held_by(self, source: Source) -> dict[str, int]:
        """Blocks by tier."""
        return {name: len(source.held[i]) for i, name in enumerate(self.tiers)}

    # --- what it holds -----------------------------------------------------------------------------------------------

    def store(self, source: Source, tier: str, hashes: Sequence[int], keys: Sequence[int], *, group: int = 0) -> None:
        """`source` holds these blocks, given by its own hashes and our keys."""
        number = self._number.get(tier)
        if number is None:
            return
        held, twice, copies = source.held[number], source.twice[number], source.copies[number]
        holders, bit = self._holders[number], source.bit
        offset = group << _GROUP_SHIFT
        for engine_hash, key in zip(hashes, keys, strict=True):
            entry = engine_hash + offset
            if entry in held:
                twice[entry] = twice.get(entry, 0) + 1
                continue
            if self._size >= self._capacity and not self._make_room(source, number):
                continue
            held[entry] = key
            self._size += 1
            before = holders.get(key, 0)
            if before & bit:
                copies[key] = copies.get(key, 0) + 1
            else:
                holders[key] = before | bit

    def store_again(self, source: Source, tier: str, hashes: Iterable[int], *, group: int = 0) -> None:
        """`source` holds blocks at `tier` that it has told of before, at any; others are left out."""
        known = [(h, key) for h in hashes if (key := source.key_of(h + (group << _GROUP_SHIFT))) is not None]
        self.store(source, tier, [h for h, _ in known], [key for _, key in known], group=group)

    def remove(self, source: Source, tier: str, hashes: Iterable[int], *, group: int = 0) -> None:
        """`source` holds one copy less of these blocks; those that it does not hold are ignored."""
        number = self._number.get(tier)
        if number is None:
            return
        twice, held = source.twice[number], source.held[number]
        offset = group << _GROUP_SHIFT
        for engine_hash in hashes:
            entry = engine_hash + offset
            if entry in twice:
                _count_down(twice, entry)
            elif entry in held:
                self._drop(source, number, entry)

    def _drop(self, source: Source, number: int, entry: int) -> None:
        key = source.held[number].pop(entry)
        source.twice[number].pop(entry, None)
        self._size -= 1
        if key in source.copies[number]:
            _count_down(source.copies[number], key)
        else:
            _take_bit(self._holders[number], key, source.bit)

    def _make_room(self, source: Source, number: int) -> bool:
        """Drop the block that `source` has held longest at this tier; False when it holds none there."""
        self.dropped += 1
        oldest = next(iter(source.held[number]), None)
        if oldest is None:
            return False
        self._drop(source, number, oldest)
        return True

    # --- what it is expected to hold ---------------------------------------------------------------------------------

    def expect(self, sources: Iterable[Source], keys: Iterable[int]) -> list[tuple[int, int]]:
        """`sources` are about to hold these blocks. What `forget` takes back: the bits that are new, by key."""
        bits = 0
        for source in sources:
            bits |= source.bit
        added = []
        expected = self._expected
        for key in keys:
            before = expected.get(key, 0)
            if bits & ~before:
                added.append((key, bits & ~before))
                expected[key] = before | bits
        return added

    def forget(self, added: Iterable[tuple[int, int]]) -> None:
        """They are expected no longer."""
        for key, bits in added:
            _take_bit(self._expected, key, bits)

    def _forget_expected(self, bit: int) -> None:
        for key in [key for key, bits in self._expected.items() if bits & bit]:
            _take_bit(self._expected, key, bit)

    # --- lookup ------------------------------------------------------------------------------------------------------

    def match(self, chain: Sequence[int], sources: int, found: Found) -> None:
        """Add to `found` how many leading blocks of `chain` each row of `sources` (their bits) holds without a gap.

        Of several sources of one row the one that holds most counts: a request is served by one of them.
        """
        alive = sources
        if not chain or not alive:
            return
        best, *lower = self._holders
        expected = self._expected
        lower = [holders for holders in lower if holders]
        depths = np.zeros(len(self._sources))
        below: dict[tuple[int, int], int] = {}  # blocks by slot and tier, of tiers other than the best
        depth = 0
        for key in chain:
            top = best.get(key, 0)
            if expected:
                top |= expected.get(key, 0)
            left = alive & top
            if lower and left != alive:
                left |= self._at_lower_tiers(key, alive & ~top, below)
            if left != alive:
                if depth:
                    _set_for_slots(depths, alive ^ left, depth)
                alive = left
                if not left:
                    break
            depth += 1
        if alive and depth:
            _set_for_slots(depths, alive, depth)
        if depth:
            found.add(depths, self._rows, self._weighted(depths, below), one_each=self._one_each)

    def _at_lower_tiers(self, key: int, wanted: int, below: dict[tuple[int, int], int]) -> int:
        """Those of the slots `wanted` that hold the block at a lower tier. Notes which, in `below`."""
        got = 0
        for number, holders in enumerate(self._holders[1:], start=1):
            here = holders.get(key, 0) & wanted & ~got
            got |= here
            while here:
                lowest = here & -here
                place = lowest.bit_length() - 1, number
                below[place] = below.get(place, 0) + 1
                here ^= lowest
        return got

    def _weighted(self, depths: Floats, below: Mapping[tuple[int, int], int]) -> Floats:
        best = self._weights[0]
        if best == 1.0 and not below:
            return depths
        weighted: Floats = depths * best
        for (slot, tier), blocks in below.items():
            weighted[slot] -= blocks * (best - self._weights[tier])
        return weighted


class Found:
    """What a lookup found, by fleet row: `blocks` that are held, and `matched`, the sum of their tiers' weights.

    `any`: somebody holds a block.
    """

    __slots__ = ("any", "blocks", "matched")

    def __init__(self, capacity: int) -> None:
        self.blocks: Floats = np.zeros(capacity)
        self.matched: Floats = np.zeros(capacity)
        self.any = False

    def add(
        self, depths: Floats, rows: np.ndarray[tuple[int], np.dtype[np.intp]], weighted: Floats, *, one_each: bool
    ) -> None:
        """What one chain found, by slot; `one_each`: no row has several slots."""
        self.any = True
        if one_each:
            self.blocks[rows] += depths
            self.matched[rows] += weighted
            return
        blocks, matched = np.zeros_like(self.blocks), np.zeros_like(self.matched)
        np.maximum.at(blocks, rows, depths)
        np.maximum.at(matched, rows, weighted)
        self.blocks += blocks
        self.matched += matched


def _set_for_slots(vector: Floats, slots: int, value: int) -> None:
    packed = np.frombuffer(slots.to_bytes((len(vector) + 7) // 8, "little"), dtype=np.uint8)
    vector[np.unpackbits(packed, bitorder="little", count=len(vector)).view(np.bool_)] = value


def _take_bit(masks: dict[int, int], key: int, bits: int) -> None:
    left = masks.get(key, 0) & ~bits
    if left:
        masks[key] = left
    else:
        masks.pop(key, None)


def _count_down(counts: dict[int, int], entry: int) -> None:
    if counts[entry] > 1:
        counts[entry] -= 1
    else:
        del counts[entry]
