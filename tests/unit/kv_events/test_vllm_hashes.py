"""Block keys as vLLM computes them, against what real vLLM published: every hash algorithm, three block sizes, three seeds."""

from __future__ import annotations

import pytest

from epp_plugins.kv_events.cbor import dumps
from epp_plugins.kv_events.events import Stored, decode
from epp_plugins.kv_events.vllm_hashes import ALGORITHMS, VllmHashes, in_event
from tests.support.kv_fixtures import Captured, captures, lora_frames

CAPTURES = captures()


def stored_events(payloads: list[bytes]) -> list[Stored]:
    return [event for payload in payloads for event in decode(payload).events if isinstance(event, Stored)]


def test_every_algorithm_and_several_block_sizes_were_captured() -> None:
    assert {c.algorithm for c in CAPTURES} == set(ALGORITHMS)
    assert {c.block_size for c in CAPTURES} == {32, 64, 128}
    assert {c.seed for c in CAPTURES} >= {"", "42"}


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.name)
def test_the_blocks_of_each_event_have_the_hashes_that_vllm_gave_them(capture: Captured) -> None:
    hashes = VllmHashes(capture.algorithm, capture.seed)
    whole: dict[int, bytes] = {}
    checked = 0

    for event in stored_events(capture.payloads):
        parent = None if event.parent is None else whole[event.parent]
        salted = {i: (("cache_salt", extra[0]),) for i, extra in enumerate(event.extra_keys) if extra}
        ours = list(hashes.chain(event.token_ids, event.block_size, parent=parent, extras=salted))
        assert [in_event(h) for h in ours] == list(event.hashes)
        whole |= {in_event(h): h for h in ours}
        checked += len(ours)

    assert checked > 20


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.name)
def test_a_prompt_has_the_hashes_of_its_blocks_in_the_cache(capture: Captured) -> None:
    """From the tokens of requests, without any event: what an index keyed by vLLM's own hashes looks up."""
    hashes = VllmHashes(capture.algorithm, capture.seed)
    published = {h for event in stored_events(capture.payloads) for h in event.hashes}

    for asked in capture.requests:
        salted = {0: (("cache_salt", asked.cache_salt),)} if asked.cache_salt else {}
        chain = [in_event(h) for h in hashes.chain(asked.tokens, capture.block_size, extras=salted)]
        assert chain
        assert published.issuperset(chain)


def test_blocks_without_an_adapter_beside_those_with_one() -> None:
    hashes = VllmHashes("sha256_cbor", "42")
    plain = [event for event in stored_events([f[2] for f in lora_frames()]) if not event.adapter and not event.parent]

    for event in plain:
        assert [in_event(h) for h in hashes.chain(event.token_ids, event.block_size)] == list(event.hashes)
    assert len(plain) > 3


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (-1, "20"),
        (-500, "3901f3"),
        (b"\x01\x02", "420102"),
        ("ü", "62c3bc"),
        (None, "f6"),
        (True, "f5"),
        ((1, [2, 3]), "8201820203"),
    ],
)
def test_canonical_cbor(value: object, encoded: str) -> None:
    """The examples of RFC 7049, appendix A, and what lies between them."""
    assert dumps(value).hex() == encoded


@pytest.mark.parametrize("value", [1.5, {1: 2}, 2**64, object()])
def test_what_no_block_hash_is_made_of_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        dumps(value)
