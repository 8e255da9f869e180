from __future__ import annotations

import msgspec
import pytest

from epp_plugins.kv_events.events import Batch, Cleared, Malformed, MalformedBatch, Removed, Stored, decode
from tests.support.kv_fixtures import captures, lora_frames

STORED = {
    "type": "BlockStored",
    "block_hashes": [7, 8],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 4],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
}


def batch(*events: object, rank: int | None = 0) -> Batch:
    return decode(msgspec.msgpack.encode([1.5, list(events), rank]))


def only(*events: object) -> object:
    (event,) = batch(*events).events
    return event


def test_everything_a_real_engine_published_can_be_read() -> None:
    payloads = [payload for _, _, payload in lora_frames()]
    payloads += [payload for capture in captures() for payload in capture.payloads]

    events = [event for payload in payloads for event in decode(payload).events]

    assert {type(event) for event in events} == {Stored, Removed, Cleared}
    assert len(events) > 200


def test_a_real_event_is_read_whole() -> None:
    stored = decode(lora_frames()[1][2]).events[1]

    assert isinstance(stored, Stored)
    assert (stored.adapter, stored.medium, stored.group, stored.kind) == ("lora-b", "gpu", 0, "full_attention")
    assert (len(stored.hashes), len(stored.token_ids), stored.block_size, stored.parent) == (14, 448, 32, None)
    assert set(stored.extra_keys) == {("lora-b",)}


def test_a_map_and_an_array_say_the_same() -> None:
    as_array = ["BlockStored", [7, 8], None, [1, 2, 3, 4], 2, None, "GPU", None]

    assert only(STORED) == only(as_array)


@pytest.mark.parametrize(
    ("array", "medium"),
    [(["BlockStored", [7], None, [1], 1], "gpu"), (["BlockStored", [7], 9, [1], 1, 4, "CPU"], "cpu")],
)
def test_trailing_members_of_an_array_may_be_absent(array: list[object], medium: str) -> None:
    stored = only(array)

    assert isinstance(stored, Stored)
    assert stored.medium == medium


def test_further_members_and_names_are_ignored() -> None:
    assert only(STORED | {"locality": "LOCAL", "session_id": "x"}) == only(STORED)
    assert batch([*["BlockRemoved", [7], "GPU", 0], "more", 5]).events == (Removed((7,), "gpu", 0),)


@pytest.mark.parametrize(
    ("written", "hash_"),
    [
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        (-1, 2**64 - 1),  # SGLang's are signed
        (bytes(range(32)), int.from_bytes(bytes(range(24, 32)), "big")),
        (b"\x01", 1),
    ],
)
def test_a_hash_is_a_number_or_the_last_eight_bytes(written: int | bytes, hash_: int) -> None:
    assert only({"type": "BlockRemoved", "block_hashes": [written], "medium": None}) == Removed((hash_,), "gpu", 0)


@pytest.mark.parametrize(("locality", "medium"), [("LOCAL", "cpu"), (None, "cpu"), ("REMOTE", "remote")])
def test_what_lies_on_another_machine_is_a_tier_of_its_own(locality: str | None, medium: str) -> None:
    elsewhere = {"medium": "CPU", "locality": locality}
    removed = {"type": "BlockRemoved", "block_hashes": [7], **elsewhere}

    assert [e.medium for e in batch(STORED | elsewhere, removed).events] == [medium, medium]  # type: ignore[union-attr]


def test_all_blocks_cleared_in_both_forms() -> None:
    assert batch({"type": "AllBlocksCleared"}, ["AllBlocksCleared"]).events == (Cleared(), Cleared())


def test_rank_and_time_are_the_batchs() -> None:
    assert (batch(rank=3).rank, batch(rank=None).rank, batch().sent_s) == (3, None, 1.5)
    assert decode(msgspec.msgpack.encode([1.5, []])).rank is None


def test_events_of_later_engines_are_left_out() -> None:
    assert batch({"type": "BlockMoved", "from": 1}, ["BlockMoved", 1], ["AllBlocksCleared"]).events == (Cleared(),)


@pytest.mark.parametrize(
    ("event", "loses"),
    [
        (STORED | {"token_ids": [1, 2, 3]}, False),
        (STORED | {"token_ids": [1, 2, 3, -4]}, False),
        (STORED | {"token_ids": [1, 2, 3, 2**32]}, False),
        (STORED | {"block_size": 0}, False),
        (STORED | {"extra_keys": [None]}, False),
        (STORED | {"block_hashes": "x"}, False),
        (["BlockStored", [1]], False),
        ({"type": "BlockRemoved", "block_hashes": 5}, True),
        (["BlockRemoved"], True),
        ({}, True),
        ([], True),
        (5, True),
        (None, True),
    ],
)
def test_an_event_that_cannot_be_read_says_whether_blocks_may_be_gone(event: object, loses: bool) -> None:
    malformed = only(event)

    assert isinstance(malformed, Malformed)
    assert malformed.loses_blocks is loses


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93", b"{}", msgspec.msgpack.encode({"a": 1}), b"\x91" * 5000])
def test_bytes_that_are_no_batch_raise_one_error(payload: bytes) -> None:
    with pytest.raises(MalformedBatch):
        decode(payload)
