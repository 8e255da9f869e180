"""Who owns a KV block, and which cached content is given up first."""

from __future__ import annotations

from epp.sim.blocks import BlockPool


def filled(pool: BlockPool, hashes: list[int]) -> list[int]:
    """Blocks holding this content, in use."""
    blocks = pool.take(len(hashes))
    for block, block_hash in zip(blocks, hashes, strict=True):
        pool.remember(block, block_hash)
    return blocks


def test_one_block_is_never_handed_out() -> None:
    pool = BlockPool(5)

    assert pool.free == 4
    assert 0 not in pool.take(4)
    assert pool.usage == 1.0


def test_freed_content_is_found_again() -> None:
    pool = BlockPool(5)
    blocks = filled(pool, [11, 12])
    pool.release(blocks)

    assert pool.match([11, 12, 13], 3) == blocks
    assert pool.usage == 0.0


def test_a_match_stops_at_the_first_unknown_block_and_at_the_limit() -> None:
    pool = BlockPool(5)
    blocks = filled(pool, [11, 12, 13])

    assert pool.match([11, 99, 13], 3) == blocks[:1]
    assert pool.match([11, 12, 13], 2) == blocks[:2]


def test_the_least_recently_freed_content_goes_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(5)
    old, young = filled(pool, [1, 2]), filled(pool, [8, 9])
    pool.release(old)
    pool.release(young)

    pool.take(1)
    assert pool.match([1, 2], 2) == old[:1]
    pool.take(1)
    assert pool.match([1, 2], 2) == []
    assert pool.match([8, 9], 2) == young


def test_a_shared_block_stays_until_its_last_user_lets_go() -> None:
    pool = BlockPool(3)
    blocks = filled(pool, [1])
    pool.share(blocks)

    pool.release(blocks)
    assert pool.used == 1
    pool.release(blocks)
    assert pool.used == 0


def test_using_cached_content_again_makes_it_young() -> None:
    pool = BlockPool(3)
    first, second = filled(pool, [1]), filled(pool, [2])
    pool.release(first)
    pool.release(second)
    pool.share(first)
    pool.release(first)

    pool.take(1)

    assert pool.match([1], 1) == first
    assert pool.match([2], 1) == []


def test_free_hits_are_not_counted_as_room_for_others() -> None:
    pool = BlockPool(4)
    blocks = filled(pool, [1, 2])
    pool.release(blocks)

    assert pool.fits(1, blocks)
    assert not pool.fits(2, blocks)
