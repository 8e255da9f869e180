"""Rows through shared memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epp_predictor.ring import Ring, size_bytes


def make_ring(capacity: int = 4) -> Ring:
    return Ring(memoryview(bytearray(size_bytes(capacity, 2))), capacity, 2)


def write(ring: Ring, *values: float) -> None:
    for value in values:
        ring.write(np.array([value, -value]))


def test_rows_come_out_as_they_went_in() -> None:
    ring = make_ring()
    write(ring, 1, 2)

    rows, after = ring.read(0)

    assert rows.tolist() == [[1, -1], [2, -2]]
    assert ring.read(after)[0].shape == (0, 2)


def test_a_slow_reader_gets_the_newest_that_are_left() -> None:
    ring = make_ring(3)
    write(ring, 1, 2, 3, 4, 5)

    assert ring.read(0)[0][:, 0].tolist() == [3, 4, 5]


def test_a_reader_that_begins_in_the_future_waits_there() -> None:
    ring = make_ring()
    write(ring, 1)

    rows, after = ring.read(99)

    assert (len(rows), after) == (0, 1)


def test_a_row_that_is_being_written_is_left_out() -> None:
    ring = make_ring(3)
    write(ring, 1, 2, 3)
    ring._slots[1, 0] = -1.0

    assert ring.read(0)[0][:, 0].tolist() == [1, 3]


def test_a_row_of_another_round_is_left_out() -> None:
    ring = make_ring(3)
    write(ring, 1, 2, 3)
    ring._slots[2, [0, -1]] = 5

    assert ring.read(0)[0][:, 0].tolist() == [1, 2]


@given(st.lists(st.integers(0, 7), max_size=40))
def test_every_row_is_read_once_unless_overtaken(batches: list[int]) -> None:
    ring, after, seen, sent = make_ring(5), 0, [], 0
    for count in batches:
        write(ring, *range(sent, sent + count))
        sent += count
        rows, after = ring.read(after)
        assert len(rows) == min(count, 5)
        seen += rows[:, 0].tolist()

    assert seen == sorted(set(seen))
