"""What the approximate prefix index costs: time for a prompt, memory for ten million blocks, how long anything stands still.

`python -m tests.bench.bench_prefix_index [BLOCKS] [--json]` fills an index of that many blocks (10 million: a minute, 1 GB) and
measures on it, where every look-up misses the processor's caches. 320 endpoints hold 31,250 blocks each; of every eight
blocks of a prompt two are shared with other prompts. Times are the least of several rounds, stalls the worst that was met.

`python -m tests.bench.bench_prefix_index TRACE.jsonl` replays prompts (`hash_ids` of each line) on one endpoint instead, and
compares what it finds with what exact LRU finds in blocks of one size.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from epp_plugins.prefix_chain import SIZE_SHIFT, Chain, block_chain, chain_seed
from epp_plugins.prefix_index import PrefixIndex
from epp_plugins.prefix_snapshot import Snapshot, read_snapshot, snapshot_pieces
from tests.bench.bench_pick import best_us
from tests.support.plugins import make_fleet

ENDPOINTS, CAPACITY, BLOCK_BYTES = 320, 31_250, 256
ALL_BLOCKS = ENDPOINTS * CAPACITY
MEMORY = "memory, MB"
SMALL, LARGE = 1024, 400_000


def memory_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def fill(index: PrefixIndex, blocks: int) -> tuple[float, float]:
    """Insert random chains until `blocks` are held. Seconds of the longest and of all insertions, in processor time."""
    chance = random.Random(1)
    shared = [[chance.getrandbits(SIZE_SHIFT) for _ in range(2)] for _ in range(1000)]
    longest = total = 0.0
    row = 0
    while len(index) < blocks:
        chain = [*chance.choice(shared), *(chance.getrandbits(SIZE_SHIFT) for _ in range(6))]
        row = (row + 1) % ENDPOINTS
        before = process_time()
        index.settle(row, index.insert(row, chain, capacity=blocks // ENDPOINTS + 1))
        took = process_time() - before
        longest, total = max(longest, took), total + took
    return longest, total


def prompts(size_bytes: int, count: int) -> list[bytes]:
    chance = random.Random(size_bytes)
    start = chance.randbytes(size_bytes // 2)
    return [start + chance.randbytes(size_bytes - len(start)) for _ in range(count)]


def look_up_us(index: PrefixIndex, texts: list[bytes]) -> float:
    seed = chain_seed("m", "")

    def one(number: int) -> None:
        index.count_matches(Chain(texts[number], block_bytes=BLOCK_BYTES, seed=seed), np.zeros(512))

    return best_us(one, calls=len(texts))


def insert_us(index: PrefixIndex, texts: list[bytes], *, fresh: bool) -> float:
    seed, salt = chain_seed("m", ""), iter(range(1 << 30))
    chains = [Chain(text, block_bytes=BLOCK_BYTES, seed=seed).blocks for text in texts]

    def one(number: int) -> None:
        chain = chains[number]
        if fresh:
            mark = next(salt) << 40
            chain = [block ^ mark for block in chain]
        index.settle(3, index.insert(3, chain, capacity=CAPACITY))

    return best_us(one, calls=len(texts))


def saving(index: PrefixIndex) -> Iterator[tuple[str, float]]:
    """Make and read a snapshot as the service does, and give it back to endpoints one by one."""
    endpoints = make_fleet(ENDPOINTS).candidates().endpoints
    pieces, longest = [], 0.0
    started = before = process_time()
    for piece in snapshot_pieces(Snapshot(64, False, {}), endpoints, index):
        longest = max(longest, process_time() - before)
        pieces.append(piece)
        before = process_time()
    took, data = process_time() - started, b"".join(pieces)
    yield "save: bytes on disk, MB", len(data) / 1e6
    yield "save: the longest piece on the event loop, ms", longest * 1e3
    yield "save: all pieces, ms", took * 1e3
    started = process_time()
    snapshot = read_snapshot(memoryview(data))
    yield "load: read it, ms", (process_time() - started) * 1e3
    after, longest = PrefixIndex(), 0.0
    started = before = process_time()
    for row, blocks in enumerate(snapshot.blocks.values()):
        after.restore(row, np.frombuffer(blocks, dtype="<u8").tolist(), capacity=CAPACITY)
        longest, before = max(longest, process_time() - before), process_time()
    yield "load: the longest endpoint that comes back, ms", longest * 1e3
    yield "load: all endpoints, ms", (process_time() - started) * 1e3


class Lru:
    """The smallest blocks of one endpoint, in the exact order of their use."""

    def __init__(self, capacity: int) -> None:
        self.held: OrderedDict[int, None] = OrderedDict()
        self.capacity = capacity
        self.hits = 0

    def ask(self, prompt: bytes) -> None:
        chain = block_chain(prompt, block_bytes=BLOCK_BYTES, seed=0)
        self.hits += next((i for i, block in enumerate(chain) if block not in self.held), len(chain))
        for block in reversed(chain):
            self.held[block] = None
            self.held.move_to_end(block)
        while len(self.held) > self.capacity:
            self.held.popitem(last=False)


class Ours:
    def __init__(self, capacity: int) -> None:
        self.index = PrefixIndex()
        self.capacity = capacity
        self.matched = np.zeros(1)

    def ask(self, prompt: bytes) -> None:
        chain = Chain(prompt, block_bytes=BLOCK_BYTES, seed=0)
        self.index.count_matches(chain, self.matched)
        self.index.settle(0, self.index.insert(0, chain.blocks, capacity=self.capacity))


def replayed(trace: Path) -> Iterator[bytes]:
    """Prompts of a trace, whose ids stand for 512 tokens each, behind a beginning of another length that all share."""
    beginning = random.Random(0).randbytes(37 * BLOCK_BYTES)
    with trace.open() as lines:
        for line in lines:
            yield beginning + b"".join(number.to_bytes(8, "little") * 256 for number in json.loads(line)["hash_ids"])


def compare(trace: Path) -> None:
    pairs = [(Lru(capacity), Ours(capacity)) for capacity in (8_000, 40_000, 160_000)]
    prompts = blocks = 0
    for prompt in replayed(trace):
        prompts += 1
        blocks += len(prompt) // BLOCK_BYTES
        for pair in pairs:
            for one in pair:
                one.ask(prompt)
    print(f"{prompts:,} prompts of {blocks:,} blocks of 64 tokens: those that were found")
    for lru, ours in pairs:
        found, places = int(ours.matched[0]), len(ours.index.blocks_of(0))
        print(
            f"  room for {lru.capacity:7,}: LRU of blocks of one size {lru.hits:9,}  this index {found:9,}"
            f"  {found / lru.hits:.3f}, in {places / len(lru.held):.2f} of the places"
        )


def measure(blocks: int) -> Iterator[tuple[str, float]]:
    """Figures by what they are, with their unit."""
    gc.disable()
    before = memory_bytes()
    index = PrefixIndex()
    longest_s, total_s = fill(index, blocks)
    yield MEMORY, (memory_bytes() - before) / 1e6
    yield "memory as it reports itself, MB", index.size_bytes / 1e6
    yield "the longest insertion while it grew, ms", longest_s * 1e3
    yield "all insertions, s", total_s
    for name, size_bytes, count in (("1 KiB", SMALL, 1000), ("400 KB", LARGE, 20)):
        texts = prompts(size_bytes, count)
        yield f"{name}: hash and look up, us", look_up_us(index, texts)
        yield f"{name}: insert and settle, new to the endpoint, us", insert_us(index, texts, fresh=True)
        yield f"{name}: insert and settle, held already, us", insert_us(index, texts, fresh=False)
        yield f"{name}: hash and look up, held, us", look_up_us(index, texts)
    yield from saving(index)
    yield "remove: blocks of the endpoint", float(index.held_by(7))
    start = perf_counter()
    index.remove(7)
    yield "remove: an endpoint, ms", (perf_counter() - start) * 1e3


def figures(blocks: int) -> dict[str, float]:
    """The same from a process of its own, whose memory nothing else has shaped."""
    command = [sys.executable, "-m", "tests.bench.bench_prefix_index", str(blocks), "--json"]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    arguments = [a for a in sys.argv[1:] if a != "--json"]
    if arguments and not arguments[0].isdigit():
        compare(Path(arguments[0]))
        return
    blocks = int(arguments[0]) if arguments else ALL_BLOCKS
    if "--json" in sys.argv:
        print(json.dumps(dict(measure(blocks))))
        return
    print(f"{blocks:,} blocks of {ENDPOINTS} endpoints; half of each prompt is shared")
    for name, value in measure(blocks):
        print(f"  {name:<55}{value:12,.2f}")


if __name__ == "__main__":
    main()
