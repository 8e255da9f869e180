"""What changing the configuration costs: `python -m tests.bench.bench_reload [ENDPOINTS]`.

A file with forty plugins is replaced while a request comes every two milliseconds. All parameters differ each time, so that
every plugin is made anew, and goes on with what the old one had learned: the prefix index is full. `reload` is the time
from the reading of the file until the configuration is in force; `slowest` is how long after it was due the slowest request
of that time was answered, `without` the same while nothing is reloaded; `busy` is the most CPU time that this process spent
between one request and the next, which other work on the machine does not add to. The least of several rounds.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

from epp.app_reload import Reloader
from epp.config import Registry, load_text
from epp.discovery.config_file import ConfigFileWatch
from epp.server.session import ExtProc
from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from epp_plugins.registry import BUILTIN
from tests.bench.bench_request import conversations, run
from tests.support.configs import HEAD
from tests.support.service import make_director, make_environment_of

PLUGINS: Final = 40
ENDPOINTS: Final = 64
BLOCKS: Final = 31_250  # of each endpoint: the default capacity
ROUNDS: Final = 7
DUE_EVERY_S: Final = 0.002
_BEFORE_AND_AFTER_S: Final = 0.05
_KINDS: Final = (
    "queue-scorer",
    "load-aware-scorer, parameters: {{threshold: {n}}}",
    "active-request-scorer, parameters: {{idleThreshold: {n}}}",
    "label-selector-filter, parameters: {{matchExpressions: [{{key: gpu, operator: NotIn, values: [gpu-{n}]}}]}}",
    "prefix-cache-scorer, parameters: {{matchLengthScaleTokens: {n}}}",
    "kv-cache-utilization-scorer",
    "context-length-aware, parameters: {{label: length-{n}}}",
)
_OTHERS: Final = (
    "approx-prefix-cache-producer, parameters: {{lruCapacityPerServer: {n}}}",
    "inflight-load-producer, parameters: {{outputRatio: {n}}}",
    "max-score-picker",
    "utilization-detector, parameters: {{queueDepthThreshold: {n}}}",
    "openai-parser",
)


def config(generation: int) -> str:
    """Forty plugins whose parameters no other generation has."""
    n = BLOCKS + generation
    kinds = [_KINDS[i % len(_KINDS)] for i in range(PLUGINS - len(_OTHERS))]
    members = [f"{{name: p{i}, type: {kind.format(n=n + i)}}}" for i, kind in enumerate(kinds)]
    plugins = [*members, *(f"{{type: {kind.format(n=n)}}}" for kind in _OTHERS)]
    refs = [*(f"p{i}" for i in range(len(members))), "max-score-picker"]
    return (
        f"{HEAD}plugins:\n"
        + "".join(f"- {plugin}\n" for plugin in plugins)
        + "schedulingProfiles:\n- name: default\n  plugins:\n"
        + "".join(f"  - {{pluginRef: {ref}}}\n" for ref in refs)
        + "requestHandler: {parsers: [{pluginRef: openai-parser}]}\n"
    )


class Stand:
    """A service that answers requests, and the file that it is configured by."""

    def __init__(self, file: Path, *, endpoints: int = ENDPOINTS) -> None:
        self._file = file
        self._generation = 0
        file.write_text(config(0))
        self.director = make_director(*[f"10.0.{i >> 8}.{i & 255}:8000" for i in range(endpoints)], config=config(0))
        registry = Registry(BUILTIN)
        registry.inspect_builtin()
        self.reloader = Reloader(self.director, registry, make_environment_of(self.director))
        self.watch = ConfigFileWatch(
            file, changed=self.reloader.apply, unreadable=self.reloader.refuse, known=load_text(config(0), str(file))
        )
        self._service = ExtProc(self.director, max_body_bytes=1 << 24)
        self._messages = conversations(200)
        self.fill()

    def fill(self) -> None:
        """Let the prefix index be as full as it gets."""
        chance = random.Random(self._generation)
        index = next(p for p in self.director.pipeline.producers if isinstance(p, ApproxPrefixCacheProducer))._index
        for row in range(len(self.director.datastore)):
            for _ in range(0, BLOCKS, 1250):
                blocks = index.insert(row, [chance.getrandbits(60) for _ in range(1250)], capacity=BLOCKS)
                index.settle(row, blocks)

    def ask(self, number: int) -> None:
        run(self._service, self._messages[number % len(self._messages)])

    def change(self) -> None:
        """Another content of the file, which nobody has looked at yet."""
        self._generation += 1
        self._file.write_text(config(self._generation))

    async def reload(self) -> float:
        """Seconds until the file is in force."""
        before = perf_counter()
        await self.watch.look()
        return perf_counter() - before


async def slowest_while(stand: Stand, work: Callable[[], Awaitable[float]]) -> tuple[float, float, float]:
    """What `work` returned, the slowest request from shortly before it began until shortly after it ended, and the most CPU
    time between two; all in seconds."""
    over = asyncio.Event()

    async def ask() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        slowest = busy = 0.0
        number = 0
        while not over.is_set():
            due, spent = loop.time() + DUE_EVERY_S, process_time()
            await asyncio.sleep(DUE_EVERY_S)
            stand.ask(number)
            slowest, busy = max(slowest, loop.time() - due), max(busy, process_time() - spent)
            number += 1
        return slowest, busy

    asking = asyncio.create_task(ask())
    await asyncio.sleep(_BEFORE_AND_AFTER_S)
    result = await work()
    await asyncio.sleep(_BEFORE_AND_AFTER_S)
    over.set()
    return result, *await asking


async def _nothing() -> float:
    await asyncio.sleep(0.02)
    return 0.0


async def rounds(file: Path, *, endpoints: int) -> dict[str, float]:
    stand = Stand(file, endpoints=endpoints)
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        _, without_s, _ = await slowest_while(stand, _nothing)
        stand.change()
        reload_s, slowest_s, busy_s = await slowest_while(stand, stand.reload)
        if stand.reloader.problems:
            raise ValueError("\n".join(stand.reloader.problems))
        stand.fill()
        found = {"reload": reload_s, "slowest": slowest_s, "without": without_s, "busy": busy_s}
        for name, seconds in found.items():
            least[name] = min(least.get(name, seconds), seconds)
    return least


def measure(*, endpoints: int = ENDPOINTS) -> dict[str, float]:
    """In milliseconds: `reload`, `slowest`, `without` and `busy`."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(rounds(Path(folder) / "config.yaml", endpoints=endpoints))
    return {name: seconds * 1e3 for name, seconds in found.items()}


def main() -> None:
    endpoints = int(sys.argv[1]) if len(sys.argv) > 1 else ENDPOINTS
    found = measure(endpoints=endpoints)
    print(f"{PLUGINS} plugins, {endpoints} endpoints")
    print(f"  reload:                                 {found['reload']:6.2f} ms")
    print(f"  slowest request meanwhile:              {found['slowest']:6.2f} ms")
    print(f"  slowest request while nothing happens:  {found['without']:6.2f} ms")
    print(f"  most CPU time between two requests:     {found['busy']:6.2f} ms")


if __name__ == "__main__":
    main()
