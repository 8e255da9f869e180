"""Looks into a BlockIndex: do its parts agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from epp_plugins.kv_events.index import BlockIndex, Source


def consistent(index: BlockIndex, sources: Sequence[Source]) -> bool:
    """Masks, counts and what each source holds agree."""
    expected: Counter[tuple[int, int]] = Counter()
    for source in sources:
        for tier, held in enumerate(source.held):
            for key in held.values():
                expected[tier, key] |= source.bit
            copies = Counter(held.values())
            if {k: n - 1 for k, n in copies.items() if n > 1} != source.copies[tier]:
                return False
            if not set(source.twice[tier]) <= set(held):
                return False
    masks = {(tier, key): mask for tier, holders in enumerate(index._holders) for key, mask in holders.items()}
    return masks == dict(expected) and len(index) == sum(len(h) for s in sources for h in s.held)
