from __future__ import annotations

import numpy as np
import pytest

from epp_plugins.prefix_chain import Chain, size_of
from epp_plugins.prefix_index import PrefixIndex


def prompt(data: bytes) -> Chain:
    """One byte a block."""
    return Chain(data, block_bytes=1, seed=0)


def blocks(*hashes: int) -> Chain:
    """Smallest blocks."""
    chain = prompt(bytes(len(hashes)))
    chain.blocks = list(hashes)
    return chain


def matches(index: PrefixIndex, hashes: list[int], *, rows: int = 4) -> list[float]:
    return found(index, blocks(*hashes), rows=rows)


def found(index: PrefixIndex, chain: Chain, *, rows: int = 4) -> list[float]:
    matched = np.zeros(rows)
    index.count_matches(chain, matched)
    return matched.tolist()


def test_leading_blocks_are_counted_for_each_row() -> None:
    index = PrefixIndex()
    index.insert(0, [1, 2, 3], capacity=10)
    index.insert(2, [1], capacity=10)

    assert matches(index, [1, 2, 3, 4]) == [3, 0, 1, 0]


def test_a_row_that_lacks_a_block_gets_nothing_for_later_ones() -> None:
    index = PrefixIndex()
    index.insert(0, [1, 2, 3], capacity=10)
    index.insert(1, [1, 3], capacity=10)

    assert matches(index, [1, 2, 3]) == [3, 1, 0, 0]


def test_counts_of_several_chains_add_up() -> None:
    index = PrefixIndex()
    index.insert(0, [1, 2], capacity=10)
    index.insert(0, [7], capacity=10)
    matched = np.zeros(1)
    index.count_matches(blocks(1, 2), matched)
    index.count_matches(blocks(7, 8), matched)

    assert matched.tolist() == [3]


def test_hundreds_of_rows_are_counted_alike() -> None:
    index = PrefixIndex()
    for row in range(300):
        index.insert(row, [1, 2, 3][: row % 4], capacity=10)

    assert matches(index, [1, 2, 3], rows=512) == [row % 4 for row in range(300)] + [0.0] * 212


def test_the_end_of_the_least_recently_used_chain_goes_first() -> None:
    index = PrefixIndex()
    index.insert(0, [1, 2], capacity=4)
    index.insert(0, [3, 4], capacity=4)
    index.insert(0, [5], capacity=4)

    assert matches(index, [1, 2])[0] == 1
    assert matches(index, [3, 4])[0] == 2


def test_use_protects_from_eviction() -> None:
    index = PrefixIndex()
    index.insert(0, [1, 2], capacity=4)
    index.insert(0, [3, 4], capacity=4)
    index.insert(0, [1, 2], capacity=4)
    index.insert(0, [5, 6], capacity=4)

    assert [matches(index, c)[0] for c in ([1, 2], [3, 4], [5, 6])] == [2, 0, 2]


def test_of_a_chain_longer_than_the_capacity_the_beginning_is_kept() -> None:
    index = PrefixIndex()
    added = index.insert(0, [1, 2, 3, 4], capacity=2)

    assert sorted(added) == [1, 2]
    assert matches(index, [1, 2, 3, 4])[0] == 2
    assert len(index) == 2


def test_what_is_in_use_goes_round_and_what_is_not_is_dropped() -> None:
    index = PrefixIndex()
    for block in (1, 2, 3):
        index.insert(0, [block], capacity=3)
    index.insert(0, [1], capacity=3)
    index.insert(0, [4], capacity=3)

    assert [matches(index, [block])[0] for block in (1, 2, 3, 4)] == [1, 0, 1, 1]


def test_a_prompt_is_not_dropped_for_its_own_end() -> None:
    index = PrefixIndex()
    index.insert(0, [1, 2, 3], capacity=3)
    index.insert(0, [1, 2, 4], capacity=3)

    assert matches(index, [1, 2, 4])[0] == 3
    assert len(index) == 3


def test_a_smaller_capacity_is_reached_step_by_step() -> None:
    index = PrefixIndex()
    index.insert(0, list(range(1000)), capacity=1000)
    sizes = []
    for block in range(2000, 2004):
        index.insert(0, [block], capacity=300)
        sizes.append(index.held_by(0))

    assert sizes == [744, 488, 300, 300]


def test_shrinking_drops_what_came_first() -> None:
    index = PrefixIndex()
    index.insert(0, [1], capacity=4)
    index.insert(0, [2], capacity=4)

    assert index.shrink(0, 1) == 1
    assert [matches(index, [block])[0] for block in (1, 2)] == [0, 1]


def test_insert_tells_what_is_not_settled() -> None:
    index = PrefixIndex()
    index.settle(0, index.insert(0, [1, 2], capacity=10))

    assert index.insert(0, [1, 2, 3], capacity=10) == [3]
    assert [index.is_settled(0, block) for block in (2, 3)] == [True, False]


def test_what_an_engine_never_read_is_dropped_unless_another_request_brings_it() -> None:
    index = PrefixIndex()
    first, second = index.insert(0, [1, 2], capacity=10), index.insert(0, [1, 3], capacity=10)
    index.undo(0, first)

    assert [matches(index, [1, block])[0] for block in (2, 3)] == [1, 2]
    index.undo(0, second)
    assert len(index) == 0


def test_what_one_request_has_settled_another_cannot_take_back() -> None:
    index = PrefixIndex()
    first, second = index.insert(0, [1], capacity=10), index.insert(0, [1], capacity=10)
    index.settle(0, first)
    index.undo(0, second)

    assert matches(index, [1])[0] == 1


def test_a_block_that_was_dropped_and_came_again_keeps_its_new_place() -> None:
    index = PrefixIndex()
    index.undo(0, index.insert(0, [1], capacity=2))
    index.insert(0, [2], capacity=2)
    index.insert(0, [1], capacity=2)
    index.insert(0, [3], capacity=2)

    assert [matches(index, [block])[0] for block in (1, 2, 3)] == [1, 0, 1]


def test_undo_and_remove_leave_nothing_behind() -> None:
    index = PrefixIndex()
    index.settle(0, index.insert(0, [1], capacity=10))
    index.undo(0, index.insert(0, [2], capacity=10))
    index.insert(1, [1], capacity=10)
    index.remove(1)

    assert matches(index, [1, 2]) == [1, 0, 0, 0]
    assert (len(index), index.held_by(0), index.held_by(1)) == (1, 1, 0)


def test_saved_blocks_come_back_in_their_order() -> None:
    index, other = PrefixIndex(), PrefixIndex()
    index.settle(0, index.insert(0, [1, 2], capacity=10))
    index.settle(0, index.insert(0, [7], capacity=10))
    index.undo(0, index.insert(0, [8], capacity=10))
    index.insert(0, [9], capacity=10)

    saved = index.blocks_of(0)
    other.restore(3, saved, capacity=2)

    assert saved.tolist() == [2, 1, 7]
    assert (matches(other, [1, 2])[3], matches(other, [7])[3], len(other)) == (1, 1, 2)
    assert other.is_settled(3, 1)


def test_everything_is_given_up_part_by_part() -> None:
    index = PrefixIndex()
    for row in range(3):
        index.insert(row, list(range(row, 12_000 + row)), capacity=20_000)

    parts = sum(1 for _ in index.give_up())

    assert parts > 100
    assert len(index) == 0
    assert matches(index, [1]) == [0, 0, 0, 0]
    assert index.insert(1, [7], capacity=10) == [7]
    assert matches(index, [7]) == [0, 1, 0, 0]


# --- blocks of several sizes ---------------------------------------------------------------------------------------------

LONG = bytes(i % 251 for i in range(1000))


def test_larger_blocks_count_for_as_many_as_they_are_long() -> None:
    index, chain = PrefixIndex(), prompt(LONG)
    index.insert(0, chain.blocks, capacity=2000)

    assert found(index, chain)[0] == len(index) == index.held_by(0) == 1000
    assert index.size_bytes < 200 * 100


@pytest.mark.parametrize("length", [*range(60, 140), 200, 333, 511, 512, 513, 800, 999])
def test_a_longer_prompt_finds_all_of_a_shorter_one(length: int) -> None:
    index = PrefixIndex()
    index.insert(0, prompt(LONG[:length]).blocks, capacity=2000)

    assert found(index, prompt(LONG))[0] == length


def test_rows_that_end_within_the_same_block_are_told_apart() -> None:
    index = PrefixIndex()
    lengths = [512, 513, 517, 518, 524, 527, 528, 600]
    for row, length in enumerate(lengths):
        index.insert(row, prompt(LONG[:length]).blocks, capacity=2000)

    assert found(index, prompt(LONG), rows=len(lengths)) == lengths


@pytest.mark.parametrize("same", [3, 64, 65, 100, 300, 601, 999])
def test_prompts_that_part_share_what_is_before_to_a_32nd(same: int) -> None:
    index = PrefixIndex()
    index.insert(0, prompt(LONG).blocks, capacity=2000)

    assert same * 31 // 32 <= found(index, prompt(LONG[:same] + b"\xff" * 50))[0] <= same


def test_capacity_and_what_is_dropped_are_counted_in_smallest_blocks() -> None:
    index = PrefixIndex()
    index.insert(0, prompt(LONG).blocks, capacity=700)
    assert index.held_by(0) == 688
    assert found(index, prompt(LONG))[0] == 688

    dropped = index.shrink(0, 600)

    assert index.held_by(0) == 688 - dropped == 592
    assert found(index, prompt(LONG))[0] == 592


def test_undo_takes_back_larger_blocks() -> None:
    index = PrefixIndex()
    index.settle(0, index.insert(0, prompt(LONG[:300]).blocks, capacity=2000))
    index.undo(0, index.insert(0, prompt(LONG).blocks, capacity=2000))

    assert index.held_by(0) == len(index) == 300
    assert found(index, prompt(LONG))[0] == 300


def test_larger_blocks_are_restored_within_the_capacity() -> None:
    index, other = PrefixIndex(), PrefixIndex()
    index.settle(0, index.insert(0, prompt(LONG).blocks, capacity=2000))

    other.restore(1, index.blocks_of(0), capacity=300)

    assert other.held_by(1) == len(other) == sum(map(size_of, other.blocks_of(1))) == 296
    assert found(other, prompt(LONG))[1] == 296
