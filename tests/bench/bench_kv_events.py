"""What the precise prefix index costs: a lookup, a message of events, a block's memory. Prints numbers; asserts nothing.

    python -m tests.bench.bench_kv_events [--memory-blocks 1000000]

Half of each prompt is held by every endpoint, as a system prompt is. The best of several rounds counts.
"""

from __future__ import annotations

import argparse
import gc
import random
import tracemalloc
from array import array
from collections.abc import Sequence
from time import perf_counter
from typing import Final

import msgspec

from epp.api import Candidates, Payload, Prompt, Request, TokenizedPrompt
from epp_plugins.kv_events.cache import PublishedCache, Tally
from epp_plugins.kv_events.events import decode
from epp_plugins.kv_events.feed import Counts, Feed
from epp_plugins.kv_events.index import BlockIndex
from epp_plugins.kv_events.keys import TokenKeys
from epp_plugins.producers.precise_prefix_cache_producer import PrecisePrefixCacheProducer
from tests.bench.bench_pick import best_us
from tests.support.kv_fixtures import lora_frames
from tests.support.plugins import make_fleet, make_handle, make_plugin

BLOCK: Final = 16
KIB_TOKENS: Final = 256  # of a prompt of 1 KiB
LONG_TOKENS: Final = 100_000  # of one of 400 KB


class Bench:
    """A producer over `count` endpoints, all of which hold the first half of every prompt."""

    def __init__(self, count: int, tokens: int) -> None:
        rng = random.Random(count)
        self.fleet = make_fleet(count)
        self.candidates: Candidates = self.fleet.candidates()
        self.producer = make_plugin(
            PrecisePrefixCacheProducer, handle=make_handle(self.fleet, name=PrecisePrefixCacheProducer.type)
        )
        self.shared = [rng.randrange(100_000) for _ in range(tokens // 2)]
        message = msgspec.msgpack.encode([1.0, [_stored(self.shared, rng)], 0])
        for endpoint in self.candidates:
            self.producer.endpoint_added(endpoint)
            (publisher,) = self.producer._followers.of(endpoint)
            publisher.connected()
            publisher.received([[b"kv", bytes(8), message]], more=False)
        self.requests = [self._request(rng, tokens) for _ in range(10)]

    def lookup(self, number: int) -> None:
        request = self.requests[number % len(self.requests)]
        self.producer.produce(request, self.candidates)

    def _request(self, rng: random.Random, tokens: int) -> Request:
        own = [rng.randrange(100_000) for _ in range(tokens - len(self.shared))]
        request = Request("r", {})
        request.payload = Payload(model="m")
        prompt = Prompt(array("I", [*self.shared, *own]).tobytes(), tokenized=True)
        request.data["TokenizedPrompt/token-producer"] = TokenizedPrompt((prompt,))
        return request


def lookups() -> dict[str, float]:
    """Microseconds of a lookup with hashing, at 8 and at 512 endpoints, for prompts of 1 KiB and of 400 KB."""
    found: dict[str, float] = {}
    for count in (8, 512):
        short, long = Bench(count, KIB_TOKENS), Bench(count, LONG_TOKENS)
        found[f"lookup_{count}_us"] = best_us(short.lookup)
        found[f"long_lookup_{count}_us"] = best_us(long.lookup, calls=20)
    return found


def messages() -> dict[str, float]:
    """Microseconds for each block that real vLLM told of or dropped, from bytes to the index."""
    payloads = [payload for _, _, payload in lora_frames()]
    blocks = sum(len(getattr(e, "hashes", ())) for payload in payloads for e in decode(payload).events)

    def take(_: int) -> None:
        index = BlockIndex({"gpu": 1.0, "cpu": 0.8}, capacity=1_000_000)
        cache = PublishedCache(index, index.add_source(0), TokenKeys(), Tally())
        feed = Feed(cache, can_replay=False, clock=perf_counter, counts=Counts())
        feed.connected()
        for number, payload in enumerate(payloads):
            feed.message(number, payload)

    return {"event_block_us": best_us(take, calls=20) / blocks}


def memory(blocks: int) -> float:
    """Bytes of an entry: one block of one endpoint, of eight that hold a half of their blocks in common."""
    rng = random.Random(1)
    gc.collect()
    tracemalloc.start()
    index = BlockIndex({"gpu": 1.0, "cpu": 0.8}, capacity=blocks)
    common = [rng.getrandbits(64) for _ in range(blocks // 16)]
    for row in range(8):
        source = index.add_source(row)
        keys = [*common, *(rng.getrandbits(64) for _ in range(blocks // 16))]
        index.store(source, "gpu", [rng.getrandbits(64) for _ in keys], keys)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(index)


def _stored(tokens: Sequence[int], rng: random.Random) -> dict[str, object]:
    count = len(tokens) // BLOCK
    return {
        "type": "BlockStored",
        "block_hashes": [rng.getrandbits(64) for _ in range(count)],
        "parent_block_hash": None,
        "token_ids": list(tokens[: count * BLOCK]),
        "block_size": BLOCK,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-blocks", type=int, default=1_000_000)
    arguments = parser.parse_args()
    for name, value in (lookups() | messages()).items():
        print(f"{name:22} {value:10.2f}")
    print(f"{'entry_bytes':22} {memory(arguments.memory_blocks):10.1f}")


if __name__ == "__main__":
    main()
