"""The bytes in which a prefix index is saved: blocks by endpoint address, made and read piece by piece. No I/O.

A record is its length (4 bytes, little-endian) and MessagePack: first a head, then one for each endpoint. Blocks are 8 bytes
each, little-endian, those that would be dropped first at the front.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from epp.api import Endpoint
from epp_plugins.prefix_chain import HASH_BITS
from epp_plugins.prefix_index import PrefixIndex

_LENGTH_BYTES: Final = 4
_BLOCK: Final = np.dtype("<u8")


class Snapshot(msgspec.Struct, frozen=True):
    """Saved blocks by endpoint address, how many tokens a block has, and whether an engine has told that size."""

    block_size_tokens: int
    tuned: bool
    blocks: Mapping[str, bytes]


class _Head(msgspec.Struct, frozen=True):
    block_size_tokens: int
    tuned: bool


class _Endpoint(msgspec.Struct, frozen=True):
    address: str
    blocks: bytes


_head: Final = msgspec.msgpack.Decoder(_Head)
_endpoint: Final = msgspec.msgpack.Decoder(_Endpoint)


def snapshot_pieces(waiting: Snapshot, endpoints: Sequence[Endpoint], index: PrefixIndex) -> Iterator[bytes]:
    """The pieces of a snapshot: what `index` holds for `endpoints`, and `waiting` as it is.

    Index and endpoints may change between two pieces: each is what there is when it is made.
    """
    yield _record(_Head(waiting.block_size_tokens, waiting.tuned))
    for address, blocks in list(waiting.blocks.items()):
        yield _record(_Endpoint(address, blocks))
    for endpoint in endpoints:
        held = index.blocks_of(endpoint.row) if endpoint.alive else None
        if held:
            yield _record(_Endpoint(endpoint.host_port, np.asarray(held).astype(_BLOCK, copy=False).tobytes()))


def read_snapshot(data: memoryview) -> Snapshot:
    """Raises ValueError for what no `snapshot_pieces` made."""
    records = _records(data)
    try:
        head = _head.decode(next(records, b""))
        blocks = {e.address: e.blocks for e in map(_endpoint.decode, records)}
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a snapshot of a prefix index: {error}") from error
    if head.block_size_tokens < 1:
        raise ValueError(f"blocks of {head.block_size_tokens} tokens")
    for address, held in blocks.items():
        if len(held) % _BLOCK.itemsize or (held and np.frombuffer(held, dtype=_BLOCK).max() > HASH_BITS):
            raise ValueError(f"blocks of {address} are not hashes")
    return Snapshot(head.block_size_tokens, head.tuned, blocks)


def _record(value: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(value)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def _records(data: memoryview) -> Iterator[memoryview]:
    start = 0
    while start < len(data):
        end = start + _LENGTH_BYTES + int.from_bytes(data[start : start + _LENGTH_BYTES], "little")
        if end > len(data):
            raise ValueError("a record is cut off")
        yield data[start + _LENGTH_BYTES : end]
        start = end
