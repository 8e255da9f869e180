from __future__ import annotations

import pytest

from epp_plugins.prefix_chain import HASH_BITS, Chain, beginning, block_chain, chain_seed, size_of

TEXT = bytes(range(256)) * 4


def chain(data: bytes, *, limit: int | None = None, model: str = "m", salt: str = "") -> list[int]:
    return block_chain(data, block_bytes=64, seed=chain_seed(model, salt), limit=limit)


def sizes(length: int) -> list[int]:
    """Of the blocks of a prompt of `length` smallest ones."""
    return [size_of(block) for block in Chain(bytes(length), block_bytes=1, seed=0).blocks]


def test_only_whole_blocks_are_hashed() -> None:
    assert [len(chain(TEXT[:n])) for n in (0, 63, 64, 127, 128)] == [0, 0, 1, 1, 2]


def test_a_limit_cuts_the_chain() -> None:
    assert chain(TEXT, limit=3) == chain(TEXT)[:3]


def test_equal_beginnings_have_equal_hashes_and_nothing_after_a_difference_has() -> None:
    one, other = chain(TEXT[:256]), chain(TEXT[:64] + b"x" + TEXT[65:256])

    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False, False, False]


def test_the_same_block_elsewhere_in_the_prompt_has_another_hash() -> None:
    first, second = chain(b"a" * 128)

    assert first != second


def test_model_and_salt_separate_prompts() -> None:
    heads = {chain(TEXT, model=model, salt=salt)[0] for model, salt in (("m", ""), ("n", ""), ("m", "s"), ("ms", ""))}

    assert len(heads) == 4


def test_up_to_64_blocks_all_are_of_the_smallest_size() -> None:
    data = bytes(range(64))

    assert Chain(data, block_bytes=1, seed=7).blocks == block_chain(data, block_bytes=1, seed=7)


def test_blocks_grow_with_what_is_before_them() -> None:
    assert sizes(512) == [1] * 64 + [2] * 32 + [4] * 32 + [8] * 32
    assert sizes(20_000)[-2:] == [128, 32]
    assert max(sizes(20_000)) == 128


def test_what_is_left_is_cut_into_ever_smaller_blocks() -> None:
    assert sizes(512 + 13)[-3:] == [8, 4, 1]
    assert sizes(64 + 1)[-1:] == [1]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 127, 128, 129, 700, 16_384, 16_385, 100_001])
def test_sizes_add_up(length: int) -> None:
    made = Chain(bytes(length), block_bytes=1, seed=0)

    assert made.size == sum(map(size_of, made.blocks)) == made.depth(len(made.blocks)) == length
    assert all(0 <= block <= HASH_BITS for block in made.blocks)


def test_whole_blocks_and_a_limit_count_in_the_smallest_size() -> None:
    assert Chain(bytes(1000), block_bytes=10, seed=0).size == 100
    assert Chain(bytes(1009), block_bytes=10, seed=0).size == 100
    assert Chain(bytes(1009), block_bytes=10, seed=0, limit=77).size == 77
    assert Chain(bytes(1009), block_bytes=10, seed=0, limit=0).blocks == []


def test_a_difference_is_in_every_block_from_there_on() -> None:
    one, other = (Chain(bytes(200) + mark + bytes(800), block_bytes=1, seed=0) for mark in (b"a", b"b"))
    number = next(n for n in range(len(one.blocks)) if one.depth(n + 1) > 200)

    assert one.blocks[:number] == other.blocks[:number]
    assert not set(one.blocks[number:]) & set(other.blocks)


def test_a_block_can_be_made_again_by_its_place() -> None:
    made = Chain(TEXT, block_bytes=1, seed=0)
    again = [
        made.part(made.depth(n), size_of(block).bit_length() - 1, after=made.before(n))
        for n, block in enumerate(made.blocks)
    ]

    assert again == made.blocks


def test_a_beginning_is_what_has_room() -> None:
    made = Chain(bytes(100), block_bytes=1, seed=0)

    assert [len(beginning(made.blocks, size)) for size in (0, 1, 64, 65, 66, 100, 1000)] == [0, 1, 64, 64, 65, 82, 82]
    assert [made.last_within(size) for size in (1, 64, 65, 66)] == [made.blocks[n] for n in (0, 63, 63, 64)]
