"""KV cache events as vLLM and SGLang publish them: bytes in, events out. Source: vllm/distributed/kv_events.py.

A message is `[timestamp, [event, ...], rank?]` in msgpack. An event is a map with a `type` (vLLM from 0.2x on) or an array
that begins with it (earlier vLLM, SGLang); trailing members may be absent, further ones are ignored. A hash is an unsigned or
signed 64-bit number, or bytes of which the last eight count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

_HASH_MASK: Final = (1 << 64) - 1
_HASH_BYTES: Final = 8
# A batch beyond this is no batch: an engine with a million blocks of 16 tokens tells them step by step.
MAX_MESSAGE_BYTES: Final = 64 << 20

Hash: TypeAlias = int | bytes
Extra: TypeAlias = tuple[object, ...] | None


class MalformedBatch(Exception):
    """The payload is no batch of events; nothing of it can be told."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Blocks that the cache holds, each continuing the one before, the first of them `parent` (None: a prompt's beginning).

    Without `token_ids`, blocks that are known already are held at another `medium` as well. `extra_keys` has what besides
    tokens tells a block from others (adapter, cache salt, media), one entry a block, or nothing at all.
    """

    hashes: tuple[int, ...]
    parent: int | None
    token_ids: Sequence[int]
    block_size: int
    medium: str
    adapter: str
    extra_keys: tuple[Extra, ...]
    group: int
    kind: str  # of attention: `full_attention`, ...; empty where the engine does not say


class Removed(msgspec.Struct, frozen=True, gc=False):
    """Blocks that the cache has dropped from `medium`."""

    hashes: tuple[int, ...]
    medium: str
    group: int


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """Everything has been dropped."""


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """An event that could not be read. `loses_blocks`: it may have told of blocks that are gone."""

    reason: str
    loses_blocks: bool


Event: TypeAlias = Stored | Removed | Cleared | Malformed


class Batch(msgspec.Struct, frozen=True, gc=False):
    """`sent_s` is the engine's wall clock."""

    sent_s: float
    events: tuple[Event, ...]
    rank: int | None


class _StoredMap(msgspec.Struct, tag="BlockStored", gc=False):
    block_hashes: list[Hash]
    parent_block_hash: Hash | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[object] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: object = None
    locality: str | None = None


class _RemovedMap(msgspec.Struct, tag="BlockRemoved", gc=False):
    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class _ClearedMap(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    pass


class _StoredArray(msgspec.Struct, tag="BlockStored", array_like=True, gc=False):
    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[object] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: object = None
    locality: str | None = None


class _RemovedArray(msgspec.Struct, tag="BlockRemoved", array_like=True, gc=False):
    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class _ClearedArray(msgspec.Struct, tag="AllBlocksCleared", array_like=True, gc=False):
    pass


class _Wire(msgspec.Struct, array_like=True, gc=False):
    timestamp: float
    events: list[msgspec.Raw]
    rank: int | None = None


class _TagMap(msgspec.Struct, gc=False):
    type: str


class _TagArray(msgspec.Struct, array_like=True, gc=False):
    type: str


_WireEvent: TypeAlias = _StoredMap | _RemovedMap | _ClearedMap | _StoredArray | _RemovedArray | _ClearedArray

_batch: Final = msgspec.msgpack.Decoder(_Wire)
_map: Final = msgspec.msgpack.Decoder(_StoredMap | _RemovedMap | _ClearedMap)
_array: Final = msgspec.msgpack.Decoder(_StoredArray | _RemovedArray | _ClearedArray)
_map_tag: Final = msgspec.msgpack.Decoder(_TagMap)
_array_tag: Final = msgspec.msgpack.Decoder(_TagArray)
# What the decoders raise for bytes that are not what was expected; RecursionError for ones that are nested very deeply.
_NO: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


def decode(payload: bytes) -> Batch:
    """The events of one message, in order. Events of kinds that are not known are left out.

    Raises MalformedBatch, and nothing else whatever the bytes are.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise MalformedBatch(f"{len(payload)} bytes are more than {MAX_MESSAGE_BYTES}")
    try:
        wire = _batch.decode(payload)
    except _NO as error:
        raise MalformedBatch(str(error)) from error
    events = tuple(event for raw in wire.events if (event := _event(raw)) is not None)
    return Batch(wire.timestamp, events, wire.rank)


def hash_of(value: Hash) -> int:
    """A block's hash as the unsigned 64-bit number that stands for it."""
    if isinstance(value, bytes):
        return int.from_bytes(value[-_HASH_BYTES:], "big")
    return value & _HASH_MASK


def _event(raw: msgspec.Raw) -> Event | None:
    is_map = _is_map(raw)
    try:
        wire: _WireEvent = (_map if is_map else _array).decode(raw)
    except _NO as error:
        return _unread(raw, str(error), is_map=is_map)
    match wire:
        case _StoredMap() | _StoredArray():
            return _stored(wire)
        case _RemovedMap() | _RemovedArray():
            return Removed(tuple(map(hash_of, wire.block_hashes)), _medium(wire), wire.group_idx or 0)
    return Cleared()


def _stored(wire: _StoredMap | _StoredArray) -> Event:
    count, tokens, size = len(wire.block_hashes), wire.token_ids, wire.block_size
    if tokens and (size < 1 or len(tokens) != count * size):
        return Malformed(f"{count} blocks of {size} tokens cannot hold {len(tokens)} tokens", False)
    if tokens and not (min(tokens) >= 0 and max(tokens) < 1 << 32):
        return Malformed("a token id is no uint32", False)
    extras = wire.extra_keys or []
    if extras and len(extras) != count:
        return Malformed(f"{len(extras)} extra keys for {count} blocks", False)
    parent = wire.parent_block_hash
    return Stored(
        tuple(map(hash_of, wire.block_hashes)),
        None if parent is None else hash_of(parent),
        tokens,
        size,
        _medium(wire),
        wire.lora_name or "",
        tuple(None if extra is None else tuple(extra) for extra in extras),
        wire.group_idx or 0,
        wire.kv_cache_spec_kind or "",
    )


def _unread(raw: msgspec.Raw, reason: str, *, is_map: bool) -> Malformed | None:
    try:
        kind = (_map_tag if is_map else _array_tag).decode(raw).type
    except _NO:
        return Malformed(reason, loses_blocks=True)
    if kind in ("BlockStored", "BlockRemoved", "AllBlocksCleared"):
        return Malformed(f"{kind}: {reason}", kind != "BlockStored")
    return None  # a kind that engines have learned since


def _is_map(raw: msgspec.Raw) -> bool:
    """fixmap, map 16 and map 32 of the msgpack specification."""
    first = memoryview(raw)[0]
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def _medium(wire: _StoredMap | _StoredArray | _RemovedMap | _RemovedArray) -> str:
    """`gpu` where the engine does not say: those that know no other medium say nothing. What lies elsewhere is `remote`."""
    if wire.locality == "REMOTE":
        return "remote"
    return (wire.medium or "gpu").lower()
