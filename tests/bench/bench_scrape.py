"""What reading metrics costs: the scan of one page, and a collector with 100 endpoints. Prints numbers; asserts nothing.

    python -m tests.bench.bench_scrape [--endpoints 100] [--interval-ms 50] [--seconds 8] [--stock-parser]

The pages are served from another process. CPU is that of the collecting process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import time
import timeit
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

import aiohttp
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from epp.data.collector import Collector
from epp.data.datastore import Datastore
from epp.data.endpoint_spec import EndpointSpec
from epp.data.engines import load_engines
from epp.data.page import PageReader
from tests.bench.upstream import page_variants

PAGES = Path(__file__).parents[1] / "fixtures" / "metrics"
PAGE = PAGES / "vllm-0.32-loaded.txt"
IDLE_PAGE = PAGES / "vllm-0.32-idle.txt"
_NUMBER = re.compile(rb" [0-9.]+(?:e[+-]?[0-9]+)?$", re.MULTILINE)


class PageServer(asyncio.Protocol):
    """Answers whatever comes with the page of an idle vLLM, chunked as its server does."""

    answers: ClassVar[Iterator[bytes]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(next(self.answers))  # type: ignore[attr-defined]


def serve(page: bytes, count: int, pipe: Connection) -> None:
    """Serves `page` on `count` free ports, which go through `pipe`, until killed."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
    PageServer.answers = cycle([head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(p), p) for p in page_variants(page)])

    async def run() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(PageServer, "127.0.0.1", 0) for _ in range(count)]
        pipe.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.Event().wait()

    uvloop.run(run())


def scan_us(page: bytes) -> dict[str, float]:
    """What one page costs: `first`, with nothing to compare it with; `idle`, as an idle server goes on; `busy`, with every
    number another one.
    """
    engine = load_engines().detect(page)
    if engine is None:
        raise ValueError("no engine is known to write such a page")
    reader = PageReader(engine)
    idle = cycle(page_variants(page))
    busy = cycle([_NUMBER.sub(b" %d.25" % i, page) for i in range(50)])
    return {
        "first": _best_us(lambda: PageReader(engine).read(page)),
        "idle": _best_us(lambda: reader.read(next(idle))),
        "busy": _best_us(lambda: reader.read(next(busy))),
    }


def _best_us(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=100, repeat=9)) / 100 * 1e6


def bench_scan(*, stock_parser: bool) -> None:
    for path in sorted(PAGES.glob("*.txt")):
        page = path.read_bytes()
        cost = scan_us(page)
        line = f"scan {path.name:26} {len(page):6} bytes" + "".join(f"  {n} {us:6.1f} us" for n, us in cost.items())
        if stock_parser:
            text = page.decode()
            stock_s = min(timeit.repeat(lambda t=text: list(text_string_to_metric_families(t)), number=3, repeat=3)) / 3  # type: ignore[misc]
            line += f"   stock parser {stock_s * 1e6:9.1f} us"
        print(line)


async def collect(ports: list[int], interval_s: float, seconds: float, *, idle_interval_s: float = 0.0) -> str:
    store = Datastore()
    collector = Collector(
        store.fleet, load_engines(), clock=time.monotonic, interval_s=interval_s, idle_interval_s=idle_interval_s
    )
    store.add_listener(collector)
    store.replace_all(EndpointSpec(f"e{i}", "127.0.0.1", port) for i, port in enumerate(ports))
    await asyncio.sleep(1)
    before, cpu_s, wall_s = scrapes(collector), time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    done, cpu_s, wall_s = scrapes(collector) - before, time.process_time() - cpu_s, time.perf_counter() - wall_s
    failures = sum(status.failures for status in collector.statuses())
    await collector.close()
    return report(done, failures, cpu_s, wall_s)


def scrapes(collector: Collector) -> int:
    return sum(status.scrapes for status in collector.statuses())


async def fetch_with_aiohttp(ports: list[int], interval_s: float, seconds: float) -> str:
    """The same fetches, pages thrown away unread, with a general HTTP client: what the collector's own one saves."""
    done = 0

    async def follow(session: aiohttp.ClientSession, port: int) -> None:
        nonlocal done
        while True:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                await response.read()
            done += 1
            await asyncio.sleep(interval_s)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(follow(session, port)) for port in ports]
        await asyncio.sleep(1)
        before, cpu_s, wall_s = done, time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        result = report(done - before, 0, time.process_time() - cpu_s, time.perf_counter() - wall_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return result


def report(done: int, failures: int, cpu_s: float, wall_s: float) -> str:
    return (
        f"{done / wall_s:7.0f} pages/s  {failures} failures  {cpu_s / wall_s:5.3f} cores  "
        f"{cpu_s / max(done, 1) * 1e6:6.1f} us CPU per page"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--endpoints", type=int, default=100)
    arguments.add_argument("--interval-ms", type=float, default=50)
    arguments.add_argument("--seconds", type=float, default=8)
    arguments.add_argument("--stock-parser", action="store_true", help="time prometheus_client's parser too")
    given = arguments.parse_args()
    bench_scan(stock_parser=given.stock_parser)

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(IDLE_PAGE.read_bytes(), given.endpoints, there), daemon=True)
    server.start()
    try:
        ports = here.recv()
        clients: list[tuple[str, Callable[[list[int], float, float], Awaitable[str]]]] = [
            ("collector", collect),
            ("idle at most 1 s", partial(collect, idle_interval_s=1.0)),
            ("aiohttp, no scan", fetch_with_aiohttp),
        ]
        for name, client in clients:
            for loop, factory in (("uvloop", uvloop.new_event_loop), ("asyncio", asyncio.new_event_loop)):
                with asyncio.Runner(loop_factory=factory) as runner:
                    print(f"{name:16} {loop:8}", runner.run(client(ports, given.interval_ms / 1000, given.seconds)))  # type: ignore[arg-type]
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
