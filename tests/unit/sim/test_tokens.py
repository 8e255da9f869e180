"""The four-bytes-a-token rule and the hashes built on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.sim.tokens import WORDS, block_hashes, decode_ids, encode_ids, prompt_seed, root_hash, token_count, word


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ééé", 2)])
def test_a_token_is_four_bytes_of_utf8(text: str, tokens: int) -> None:
    assert token_count(text.encode()) == tokens


@given(st.binary(max_size=200))
def test_ids_of_a_prompt_stand_for_the_same_bytes_filled_up(data: bytes) -> None:
    again = encode_ids(decode_ids(data))

    assert again.rstrip(b"\0") == data.rstrip(b"\0")
    assert token_count(again) == token_count(data)


@pytest.mark.parametrize("ids", [[-1], [2**32]])
def test_ids_that_are_no_32_bit_numbers_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token ids"):
        encode_ids(ids)


@given(st.binary(min_size=64, max_size=640), st.integers(0, 639))
def test_a_changed_byte_changes_its_block_and_all_later_ones(data: bytes, position: int) -> None:
    position %= len(data)
    other = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    mine, theirs = block_hashes(data, 4, 7), block_hashes(other, 4, 7)
    same = position // 16

    assert mine[:same] == theirs[:same]
    assert all(a != b for a, b in zip(mine[same:], theirs[same:], strict=True))


def test_only_full_blocks_have_a_hash() -> None:
    assert len(block_hashes(bytes(63), 4, 0)) == 3


def test_adapter_and_salt_part_the_cache() -> None:
    roots = {root_hash(None, None), root_hash("a", None), root_hash(None, "a"), root_hash("b", "a")}

    assert len(roots) == 4


def test_every_word_of_an_answer_is_one_token() -> None:
    assert {len(said) for said in WORDS} == {4}
    assert {word(prompt_seed(b"%d" % number), 0) for number in range(2000)} == set(WORDS)
    assert word(99, 3) == word(99, 3)
