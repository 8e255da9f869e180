from __future__ import annotations

import pytest

from epp_plugins.kv_events.index import BlockIndex, Found, Source

CHAIN = [101, 102, 103, 104]
HASHES = [1, 2, 3, 4]


def make_index(*, capacity: int = 1000) -> BlockIndex:
    return BlockIndex({"gpu": 1.0, "cpu": 0.8}, capacity=capacity)


def held(index: BlockIndex, *sources: Source, chain: list[int] = CHAIN, rows: int = 3) -> list[list[float]]:
    """Blocks and their weights, by row."""
    found = Found(rows)
    index.match(chain, sum(s.bit for s in sources), found)
    return [found.blocks.tolist(), [round(m, 6) for m in found.matched.tolist()]]


def test_blocks_count_from_the_first_on_without_a_gap() -> None:
    index = make_index()
    whole, gap, late = (index.add_source(row) for row in range(3))
    index.store(whole, "gpu", HASHES, CHAIN)
    index.store(gap, "gpu", [1, 2, 4], [101, 102, 104])
    index.store(late, "gpu", [2, 3], [102, 103])

    assert held(index, whole, gap, late)[0] == [4, 2, 0]


def test_a_block_at_a_slower_tier_counts_its_weight() -> None:
    index = make_index()
    source = index.add_source(0)
    index.store(source, "gpu", [1, 2], [101, 102])
    index.store(source, "cpu", [2, 3, 4], [102, 103, 104])

    assert held(index, source) == [[4, 0, 0], [pytest.approx(3.6), 0, 0]]


def test_tiers_without_a_weight_are_not_kept() -> None:
    index = make_index()
    source = index.add_source(0)

    index.store(source, "storage", HASHES, CHAIN)
    index.remove(source, "storage", HASHES)

    assert len(index) == 0


def test_only_the_sources_that_are_asked_for_count() -> None:
    index = make_index()
    one, other = index.add_source(0), index.add_source(1)
    index.store(one, "gpu", HASHES, CHAIN)
    index.store(other, "gpu", HASHES, CHAIN)

    assert held(index, other)[0] == [0, 4, 0]


def test_of_several_ranks_of_an_endpoint_the_best_counts() -> None:
    """A request is served by one of them: what two hold together is of no use."""
    index = make_index()
    ranks = index.add_source(0), index.add_source(0)
    index.store(ranks[0], "gpu", [1, 2], [101, 102])
    index.store(ranks[1], "gpu", [1, 2, 3], [101, 102, 103])

    assert held(index, *ranks)[0] == [3, 0, 0]


def test_each_copy_of_a_block_has_to_be_removed() -> None:
    """Requests that run at the same time compute the same block twice; the engine tells of both copies, and of both ends."""
    index = make_index()
    source = index.add_source(0)
    index.store(source, "gpu", HASHES, CHAIN)
    index.store(source, "gpu", HASHES[:1], CHAIN[:1])

    index.remove(source, "gpu", [1])
    first = held(index, source)[0]
    index.remove(source, "gpu", [1])

    assert (first[0], held(index, source)[0][0]) == (4, 0)


def test_groups_of_layers_hold_a_block_each() -> None:
    index = make_index()
    source = index.add_source(0)
    index.store(source, "gpu", HASHES, CHAIN)
    index.store(source, "gpu", HASHES, CHAIN, group=1)

    index.remove(source, "gpu", HASHES, group=1)

    assert held(index, source)[0][0] == 4


def test_a_store_without_tokens_moves_what_is_known_to_another_tier() -> None:
    index = make_index()
    source = index.add_source(0)
    index.store(source, "gpu", HASHES, CHAIN)

    index.store_again(source, "cpu", [1, 2, 77])
    index.remove(source, "gpu", HASHES)

    assert held(index, source) == [[2, 0, 0], [pytest.approx(1.6), 0, 0]]
    assert source.key_of(77) is None


def test_a_source_that_is_cleared_or_removed_leaves_the_others_alone() -> None:
    index = make_index()
    one, other = index.add_source(0), index.add_source(1)
    for source in (one, other):
        index.store(source, "gpu", HASHES, CHAIN)
        index.store(source, "cpu", HASHES, CHAIN)

    index.clear(one)
    after_clear = held(index, one, other)[0]
    index.remove_source(other)

    assert (after_clear, len(index)) == ([0, 4, 0], 0)


def test_a_slot_is_used_again_and_knows_nothing_of_before() -> None:
    index = make_index()
    gone = index.add_source(0)
    index.store(gone, "gpu", HASHES, CHAIN)
    index.expect([gone], CHAIN)
    index.remove_source(gone)

    fresh = index.add_source(2)

    assert fresh.slot == gone.slot
    assert held(index, fresh)[0] == [0, 0, 0]


def test_a_full_index_drops_what_the_source_was_told_first() -> None:
    index = make_index(capacity=3)
    source = index.add_source(0)

    index.store(source, "gpu", HASHES, CHAIN)

    assert (len(index), index.dropped) == (3, 1)
    assert held(index, source, chain=CHAIN[1:])[0][0] == 3


def test_expected_blocks_go_on_from_held_ones_until_they_are_forgotten() -> None:
    index = make_index()
    source = index.add_source(0)
    index.store(source, "gpu", [1, 2], [101, 102])

    added = index.expect([source], CHAIN)
    with_them = held(index, source)[0]
    index.forget(added)

    assert (with_them, held(index, source)[0]) == ([4, 0, 0], [2, 0, 0])


def test_what_several_picks_expect_is_forgotten_by_the_first() -> None:
    index = make_index()
    source = index.add_source(0)
    first = index.expect([source], CHAIN)

    second = index.expect([source], CHAIN)
    index.forget(second)
    kept = held(index, source)[0]
    index.forget(first)

    assert (second, kept, held(index, source)[0]) == ([], [4, 0, 0], [0, 0, 0])


def test_many_sources_at_once() -> None:
    index = make_index(capacity=10_000)
    sources = [index.add_source(row) for row in range(100)]
    for i, source in enumerate(sources):
        index.store(source, "gpu", HASHES[: i % 5], CHAIN[: i % 5])

    assert held(index, *sources, rows=100)[0] == [float(i % 5) for i in range(100)]
