"""The keys under which blocks are indexed, equal for a prompt of a request and for the blocks an engine tells of.

Usually they are made here from the tokens on both sides, so that neither the engine's hash algorithm, nor its seed, nor its
block size has to be known or set. Where the engine's algorithm is given, they are the engine's own hashes: then events need
no tokens.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from xxhash import xxh3_64_intdigest

from epp_plugins.kv_events.cbor import dumps
from epp_plugins.kv_events.events import Extra, Stored
from epp_plugins.kv_events.vllm_hashes import VllmHashes, in_event

TOKEN_BYTES: Final = 4  # little-endian uint32, as in Prompt.data
_BIG_ENDIAN: Final = sys.byteorder == "big"
# Between a block's tokens and what else tells it: no tokens of a whole block end in the middle of a token.
_MARK: Final = b"\xff"


class Placed(Protocol):
    """A medium of a prompt: its identifier and where its tokens are."""

    @property
    def identifier(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...


Extras: TypeAlias = Mapping[int, tuple[object, ...]]
"""What besides tokens tells a block from others, in the form and order of events, by number of the block."""


class BlockKeys(Protocol):
    """Makes keys."""

    def of_prompt(self, tokens: bytes, block_size: int, *, adapter: str, extras: Extras) -> list[int] | None:
        """Of the whole blocks of a prompt (token ids as in `Prompt.data`); None where they cannot be told."""
        ...

    def of_event(self, stored: Stored, parent: int | None) -> Sequence[int] | None:
        """Of the blocks of an event that continue the block with key `parent`; None where they cannot be told."""
        ...


class TokenKeys:
    """Keys from tokens: xxh3 over a block's tokens, seeded with the key of the block before it."""

    def of_prompt(self, tokens: bytes, block_size: int, *, adapter: str, extras: Extras) -> list[int] | None:
        return _chain(tokens, block_size, _root(adapter, block_size), extras)

    def of_event(self, stored: Stored, parent: int | None) -> list[int] | None:
        if not stored.token_ids or (stored.parent is not None and parent is None):
            return None
        packed = array("I", stored.token_ids)
        if _BIG_ENDIAN:
            packed.byteswap()
        start = _root(stored.adapter, stored.block_size) if parent is None else parent
        try:
            return _chain(packed.tobytes(), stored.block_size, start, _told_apart(stored))
        except TypeError:  # by something that nobody could look up
            return None


class EngineKeys:
    """Keys that are vLLM's own hashes. Those of an adapter's blocks hold its path, which requests do not tell."""

    def __init__(self, hashes: VllmHashes) -> None:
        self._hashes = hashes

    def of_prompt(self, tokens: bytes, block_size: int, *, adapter: str, extras: Extras) -> list[int] | None:
        if adapter:
            return None
        ids = array("I", tokens)
        if _BIG_ENDIAN:
            ids.byteswap()
        tagged = {number: _tagged(of_block) for number, of_block in extras.items()}
        return [in_event(h) for h in self._hashes.chain(ids.tolist(), block_size, extras=tagged)]

    def of_event(self, stored: Stored, parent: int | None) -> Sequence[int] | None:
        return stored.hashes


def extras_of(salt: str, media: Sequence[Placed], block_size: int) -> Extras:
    """What tells the blocks of a prompt apart besides tokens: media where they lie, and the salt in the first block.

    Same rule as vLLM's generate_block_hash_extra_keys, in the form of its events.
    """
    extras: dict[int, tuple[object, ...]] = {}
    for medium in sorted(media, key=lambda m: m.offset):
        last = medium.offset + medium.length - 1
        for number in range(medium.offset // block_size, last // block_size + 1):
            entry = (medium.identifier, medium.offset - number * block_size)
            extras[number] = (*extras.get(number, ()), entry)
    if salt:
        extras[0] = (*extras.get(0, ()), salt)
    return extras


def _chain(tokens: bytes, block_size: int, start: int, extras: Extras) -> list[int]:
    step = block_size * TOKEN_BYTES
    whole = len(tokens) // step * step
    chain, key = [], start
    if not extras:
        for at in range(0, whole, step):
            key = xxh3_64_intdigest(tokens[at : at + step], key)
            chain.append(key)
        return chain
    for number, at in enumerate(range(0, whole, step)):
        block = tokens[at : at + step]
        if number in extras:
            block += _MARK + dumps(extras[number])
        key = xxh3_64_intdigest(block, key)
        chain.append(key)
    return chain


def _root(adapter: str, block_size: int) -> int:
    return xxh3_64_intdigest(adapter.encode("utf-8", "surrogatepass"), block_size)


def _told_apart(stored: Stored) -> Extras:
    """The extra keys of an event's blocks, without the adapter, which every one of its blocks names."""
    if not any(stored.extra_keys):
        return {}
    rest = {number: _rest(extra, stored.adapter) for number, extra in enumerate(stored.extra_keys)}
    return {number: extra for number, extra in rest.items() if extra}


def _rest(extra: Extra, adapter: str) -> tuple[object, ...]:
    if extra and adapter and extra[0] == adapter:
        return extra[1:]
    return extra or ()


def _tagged(extras: tuple[object, ...]) -> tuple[tuple[object, ...], ...]:
    """In the form in which vLLM hashes them."""
    return tuple(("mm", *entry) if isinstance(entry, tuple) else ("cache_salt", entry) for entry in extras)
