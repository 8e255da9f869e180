"""What the approximate prefix index costs: time for a prompt, memory for ten million blocks, how long anything stands still.

`python -m tests.bench.bench_prefix_index [BLOCKS] [--json]` fills an index of that many blocks (10 million: a minute, 1 GB) and
measures on it, where every look-up misses the processor's caches. 320 endpoints hold 31,250 blocks each; of every eight
blocks of a prompt two are shared with other prompts. Times are the least of several rounds, stalls the worst that was met.

`python -m tests.bench.bench_prefix_index TRACE.jsonl` replays prompts (`hash_ids` of each line) on one endpoint instead, and
compares the blocks it finds with those of exact LRU.
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

from epp_plugins.prefix_index import PrefixIndex, block_chain, chain_seed
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
    shared = [[chance.getrandbits(60) for _ in range(2)] for _ in range(1000)]
    longest = total = 0.0
    row = 0
    while len(index) < blocks:
        chain = [*chance.choice(shared), *(chance.getrandbits(60) for _ in range(6))]
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
        chain = block_chain(texts[number], block_bytes=BLOCK_BYTES, seed=seed)
        index.count_matches(chain, np.zeros(512))

    return best_us(one, calls=len(texts))


def insert_us(index: PrefixIndex, texts: list[bytes], *, fresh: bool) -> float:
    seed, salt = chain_seed("m", ""), iter(range(1 << 30))
    chains = [block_chain(text, block_bytes=BLOCK_BYTES, seed=seed) for text in texts]

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


def lru_hits(chains: list[list[int]], capacity: int) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for chain in chains:
        hits += next((i for i, block in enumerate(chain) if block not in held), len(chain))
        for block in reversed(chain):
            held[block] = None
            held.move_to_end(block)
        while len(held) > capacity:
            held.popitem(last=False)
    return hits


def index_hits(chains: list[list[int]], capacity: int) -> int:
    index, matched = PrefixIndex(), np.zeros(1)
    for chain in chains:
        index.count_matches(chain, matched)
        index.settle(0, index.insert(0, chain, capacity=capacity))
    return int(matched[0])


def compare(trace: Path) -> None:
    with trace.open() as lines:
        chains = [json.loads(line)["hash_ids"] for line in lines]
    blocks = sum(map(len, chains))
    print(f"{len(chains):,} prompts of {blocks:,} blocks: those that were found")
    for capacity in (1_000, 5_000, 20_000):
        lru, ours = lru_hits(chains, capacity), index_hits(chains, capacity)
        print(f"  room for {capacity:6,}: LRU {lru:8,}  second chance {ours:8,}  {ours / lru:.3f}")


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
