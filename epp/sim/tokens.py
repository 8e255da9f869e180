"""Text to tokens and back without a tokenizer.

The rule: a token is four bytes of UTF-8, and the last one may be shorter. So a text of n bytes has ceil(n / 4) tokens, close
to what real tokenizers make of English. A token's id is its four bytes as a little-endian number, and a prompt given as
token ids is turned into bytes by the same rule: text and its ids from /tokenize share the prefix cache. Every token that
the simulator answers with is one four-byte word, a space and three letters.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from sys import byteorder

from xxhash import xxh64_intdigest

TOKEN_BYTES = 4

_SAYS = """
act add age air all and any arm ask bag bar bed big box bus buy can car cup cut day dog dry ear eat egg end eye far few fit
fly for fox fun get hat ice ink jam key law leg map new nut oak oil old one owl pen pot red run sea sky sun tea ten two
way yes zoo
"""

WORDS: tuple[bytes, ...] = tuple(f" {said}".encode() for said in _SAYS.split())
"""64 words. A power of two, so that one mask picks a word."""


def token_count(data: bytes) -> int:
    return -(-len(data) // TOKEN_BYTES)


def encode_ids(ids: Sequence[int]) -> bytes:
    """Bytes of a prompt given as token ids. ValueError for an id that is negative or has more than 32 bits."""
    try:
        packed = array("I", ids)
    except (OverflowError, TypeError) as error:
        raise ValueError("token ids must be integers in 0..4294967295") from error
    if byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def decode_ids(data: bytes) -> list[int]:
    """Token ids of a prompt; the last token is filled up with zero bytes."""
    packed = array("I", data + bytes(-len(data) % TOKEN_BYTES))
    if byteorder == "big":
        packed.byteswap()
    return packed.tolist()


def word(seed: int, position: int) -> bytes:
    """Token number `position` of the answer to the prompt with this seed: the same on every server and in every run."""
    mixed = (seed + position * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return WORDS[(mixed ^ (mixed >> 29)) >> 7 & 63]


def prompt_seed(data: bytes) -> int:
    return xxh64_intdigest(data)


def root_hash(adapter: str | None, cache_salt: str | None) -> int:
    """Start of a hash chain. Prompts share cached blocks only within one adapter and one cache_salt, as in vLLM."""
    return xxh64_intdigest(f"{adapter or ''}\0{cache_salt or ''}".encode())


def chain_hash(parent: int, block: bytes | bytearray | memoryview) -> int:
    """Hash of one full block; it names the block and everything before it."""
    return xxh64_intdigest(block, seed=parent)


def block_hashes(data: bytes, block_size: int, root: int) -> list[int]:
    """Chained hashes of the full blocks of a prompt, first block first."""
    size = block_size * TOKEN_BYTES
    view = memoryview(data)
    hashes: list[int] = []
    parent = root
    for start in range(0, len(data) - size + 1, size):
        parent = chain_hash(parent, view[start : start + size])
        hashes.append(parent)
    return hashes
