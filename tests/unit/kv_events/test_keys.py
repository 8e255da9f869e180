from __future__ import annotations

import msgspec
import pytest

from epp_plugins.kv_events.events import Stored, decode
from epp_plugins.kv_events.keys import EngineKeys, TokenKeys, extras_of
from epp_plugins.kv_events.vllm_hashes import VllmHashes
from tests.support.kv_fixtures import Captured, captures, lora_frames, packed


class Medium(msgspec.Struct):
    identifier: str
    offset: int
    length: int


def stored(tokens: list[int], size: int = 2, *, adapter: str = "", extras: tuple[object, ...] = ()) -> Stored:
    count = len(tokens) // size
    return Stored(tuple(range(count)), None, tokens, size, "gpu", adapter, extras, 0, "")  # type: ignore[arg-type]


def of_prompt(
    tokens: list[int], size: int = 2, *, adapter: str = "", salt: str = "", media: tuple[Medium, ...] = ()
) -> object:
    return TokenKeys().of_prompt(packed(tokens), size, adapter=adapter, extras=extras_of(salt, media, size))


def published(capture: Captured) -> dict[int, int]:
    """Our key of every block that was published, by the engine's hash."""
    known: dict[int, int] = {}
    for payload in capture.payloads:
        for event in decode(payload).events:
            if isinstance(event, Stored):
                keys = TokenKeys().of_event(event, None if event.parent is None else known[event.parent])
                assert keys is not None
                known |= dict(zip(event.hashes, keys, strict=True))
    return known


@pytest.mark.parametrize("capture", captures(), ids=lambda c: c.name)
def test_the_blocks_of_a_request_have_the_keys_of_what_the_engine_stored_for_it(capture: Captured) -> None:
    """Whatever the engine's hash algorithm, its seed and its block size are."""
    known = set(published(capture).values())

    for asked in capture.requests:
        salted = extras_of(asked.cache_salt, (), capture.block_size)
        chain = TokenKeys().of_prompt(packed(asked.tokens), capture.block_size, adapter="", extras=salted)
        assert chain
        assert known.issuperset(chain)


@pytest.mark.parametrize("capture", captures(), ids=lambda c: c.name)
def test_keys_are_as_different_as_the_engines_hashes(capture: Captured) -> None:
    known = published(capture)

    assert len(set(known.values())) == len(known)


def test_an_adapters_blocks_are_others() -> None:
    events = [e for _, _, payload in lora_frames() for e in decode(payload).events if isinstance(e, Stored)]
    first = {e.adapter: e for e in events if e.parent is None and len(e.hashes) == 14}

    for adapter, event in first.items():
        tokens = list(event.token_ids)
        assert of_prompt(tokens, 32, adapter=adapter) == TokenKeys().of_event(event, None)
        assert of_prompt(tokens, 32, adapter="another") != TokenKeys().of_event(event, None)
    assert set(first) == {"", "lora-a", "lora-b"}


def test_only_whole_blocks_have_keys() -> None:
    assert [len(of_prompt(list(range(n)))) for n in (0, 1, 2, 3, 4)] == [0, 0, 1, 1, 2]  # type: ignore[arg-type]


def test_a_block_goes_on_from_its_parent() -> None:
    keys = TokenKeys()
    first, second = keys.of_event(stored([1, 2, 3, 4]), None) or ()

    assert keys.of_event(msgspec.structs.replace(stored([3, 4]), parent=99), first) == [second]
    assert keys.of_event(stored([3, 4]), None) != [second]


def test_blocks_whose_parent_is_not_known_have_no_keys() -> None:
    assert TokenKeys().of_event(msgspec.structs.replace(stored([3, 4]), parent=99), None) is None


def test_salt_tells_the_first_block_and_so_all_of_them() -> None:
    plain, salted = of_prompt([1, 2, 3, 4]), of_prompt([1, 2, 3, 4], salt="pepper")
    event = TokenKeys().of_event(stored([1, 2, 3, 4], extras=(("pepper",), None)), None)

    assert salted == event
    assert not set(salted).intersection(plain)  # type: ignore[call-overload]


def test_media_tell_the_blocks_that_they_lie_in() -> None:
    """As vLLM does it: the identifier, and where the medium begins, counted from the beginning of the block."""
    image = Medium("img", 3, 4)  # tokens 3 to 6 of blocks of 2: in blocks 1, 2 and 3
    extras = (None, (["img", 1],), (["img", -1],), (["img", -3],))

    assert of_prompt(list(range(10)), media=(image,))[:4] == TokenKeys().of_event(  # type: ignore[index]
        stored(list(range(8)), extras=extras), None
    )


def test_block_sizes_do_not_mix() -> None:
    assert not set(of_prompt([1, 2, 3, 4], 2)).intersection(of_prompt([1, 2, 3, 4], 4))  # type: ignore[call-overload]


def test_extra_keys_that_nobody_could_look_up_make_no_keys() -> None:
    assert TokenKeys().of_event(stored([1, 2], extras=(({"a": 1},),)), None) is None


def test_engine_keys_are_the_engines_hashes_on_both_sides() -> None:
    capture = next(c for c in captures() if c.algorithm == "sha256_cbor" and c.block_size == 32)
    keys = EngineKeys(VllmHashes("sha256_cbor", "42"))
    hashes = {h for p in capture.payloads for e in decode(p).events if isinstance(e, Stored) for h in e.hashes}

    for asked in capture.requests:
        salted = extras_of(asked.cache_salt, (), 32)
        chain = keys.of_prompt(packed(asked.tokens), 32, adapter="", extras=salted)
        assert chain
        assert hashes.issuperset(chain)
    assert keys.of_prompt(packed([1] * 32), 32, adapter="lora-a", extras={}) is None
