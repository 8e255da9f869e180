from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_plugins.prefix_chain import HASH_BITS
from epp_plugins.prefix_index import PrefixIndex
from epp_plugins.prefix_snapshot import Snapshot, read_snapshot, snapshot_pieces
from tests.support.plugins import make_fleet

hashes = st.integers(0, HASH_BITS)


def index_of(*rows: list[int]) -> PrefixIndex:
    index = PrefixIndex()
    for row, blocks in enumerate(rows):
        index.restore(row, array("Q", blocks), capacity=1 << 20)
    return index


def blocks_of(data: bytes) -> list[int]:
    return array("Q", data).tolist()


@given(st.lists(hashes, max_size=20, unique=True), st.integers(1, 512), st.booleans())
def test_blocks_come_back_in_their_order(blocks: list[int], size: int, tuned: bool) -> None:
    endpoints = make_fleet(2).candidates().endpoints
    waiting = Snapshot(size, tuned, {"10.9.9.9:1": array("Q", [5]).tobytes()})
    saved = b"".join(snapshot_pieces(waiting, endpoints, index_of(blocks)))

    snapshot = read_snapshot(memoryview(saved))

    assert (snapshot.block_size_tokens, snapshot.tuned) == (size, tuned)
    assert {a: blocks_of(b) for a, b in snapshot.blocks.items()} == {"10.9.9.9:1": [5]} | (
        {"10.0.0.1:8000": blocks} if blocks else {}
    )


def test_an_endpoint_that_leaves_while_it_is_saved_is_left_out() -> None:
    fleet = make_fleet(2)
    pieces = iter(snapshot_pieces(Snapshot(64, False, {}), fleet.candidates().endpoints, index_of([1], [2])))
    saved = next(pieces) + next(pieces)
    fleet.remove(fleet.candidates().endpoints[1])
    saved += b"".join(pieces)

    assert list(read_snapshot(memoryview(saved)).blocks) == ["10.0.0.1:8000"]


@given(st.binary(max_size=100))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_snapshot(memoryview(data))


@pytest.mark.parametrize("blocks", [b"1234567", array("Q", [HASH_BITS + 1]).tobytes()])
def test_blocks_that_are_no_hashes_are_refused(blocks: bytes) -> None:
    saved = b"".join(snapshot_pieces(Snapshot(64, False, {"a:1": blocks}), (), PrefixIndex()))

    with pytest.raises(ValueError, match="blocks of a:1 are not hashes"):
        read_snapshot(memoryview(saved))
