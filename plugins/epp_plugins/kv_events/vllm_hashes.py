"""vLLM's own block hashes, computed outside of it. Source: vllm/v1/core/kv_cache_utils.py, vllm/utils/hashing.py (0.32).

A block's hash covers the block before it, its tokens, and what else tells it from others. Events carry its last eight bytes.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import xxhash

from epp_plugins.kv_events.cbor import dumps

# What besides its tokens tells a block: ("lora", name, path), ("mm", identifier, offset), ("cache_salt", salt), ...
Extras: TypeAlias = tuple[tuple[object, ...], ...]

# Of the cryptographic algorithms where PYTHONHASHSEED is not set; the others are then different in every process.
DEFAULT_SEED: Final = "vllm-none-hash"
_PICKLE_PROTOCOL: Final = 5


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=_PICKLE_PROTOCOL)


_ALGORITHMS: Final[Mapping[str, Callable[[object], bytes]]] = {
    "sha256": lambda value: hashlib.sha256(_pickled(value)).digest(),
    "sha256_cbor": lambda value: hashlib.sha256(dumps(value)).digest(),
    "xxhash": lambda value: xxhash.xxh3_128_digest(_pickled(value)),
    "xxhash_cbor": lambda value: xxhash.xxh3_128_digest(dumps(value)),
}
ALGORITHMS: Final = tuple(_ALGORITHMS)
SEEDED: Final = ("sha256", "sha256_cbor")
"""Those that need no seed of their own: without PYTHONHASHSEED every process of vLLM has the same."""


class VllmHashes:
    """The hashes of one engine: `--prefix-caching-hash-algo` and the PYTHONHASHSEED of its process (empty: not set)."""

    def __init__(self, algorithm: str, seed: str = "") -> None:
        self._hash = _ALGORITHMS[algorithm]
        self._root = self._hash(seed or DEFAULT_SEED)

    def chain(
        self,
        tokens: Sequence[int],
        block_size: int,
        *,
        parent: bytes | None = None,
        extras: Mapping[int, Extras] | None = None,
    ) -> Iterator[bytes]:
        """The hashes of the whole blocks of `tokens`, which continue the block `parent`; `extras` by number of the block."""
        known = extras or {}
        before = parent or self._root
        for number in range(len(tokens) // block_size):
            # vLLM hashes a tuple of Python's own numbers.
            block = tuple(tokens[number * block_size : (number + 1) * block_size])
            before = self._hash((before, block, known.get(number)))
            yield before


def in_event(digest: bytes) -> int:
    """A hash as events show it (VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES, the default)."""
    return int.from_bytes(digest[-8:], "big")
