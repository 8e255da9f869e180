"""What keeping decisions costs: `python -m tests.bench.bench_explain`.

The conversation of bench_request through a session, with the ring and without it, in turns; µs of CPU time of this process per
request. Then what the ring's own call costs, what 10,000 decisions take, and what telling one costs.
"""

from __future__ import annotations

import gc
import statistics
import tracemalloc
from time import monotonic, perf_counter, process_time

from epp.api import Payload, Request
from epp.observability.explain import KEPT, Decisions
from epp.observability.explanation import explanation, one_line
from epp.server.session import ExtProc
from tests.bench.bench_request import conversations, run
from tests.support.service import make_director

ROUNDS, REQUESTS = 24, 300


def make_service(*, keep: int, endpoints: int = 8) -> ExtProc:
    director = make_director(*[f"127.0.0.1:{8000 + i}" for i in range(endpoints)])
    director.decisions = Decisions(director.datastore.fleet, monotonic, keep=keep)
    return ExtProc(director, max_body_bytes=1 << 24)


def compare(endpoints: int) -> dict[str, list[float]]:
    """µs of each request, by whether decisions are kept. The two take turns, so that both meet the same noise."""
    services = {
        "without": make_service(keep=0, endpoints=endpoints),
        "with": make_service(keep=KEPT, endpoints=endpoints),
    }
    made = conversations(REQUESTS)
    spent: dict[str, list[float]] = {name: [] for name in services}
    for number in range(ROUNDS + 2):
        for messages in made:
            for name, service in services.items():
                before = process_time()
                run(service, messages)
                if number >= 2:
                    spent[name].append((process_time() - before) * 1e6)
    return spent


def ring_alone(endpoints: int) -> float:
    """µs for the calls that the ring adds to a request, vectors of scores aside."""
    director = make_service(keep=KEPT, endpoints=endpoints).director
    decisions, pipeline = director.decisions, director.pipeline
    candidates = director.datastore.fleet.candidates()
    least = float("inf")
    for _ in range(ROUNDS):
        requests = [_request(str(i)) for i in range(REQUESTS)]
        traces = [decisions.trace() for _ in requests]
        results = [pipeline.scheduler.schedule(r, candidates, trace=t) for r, t in zip(requests, traces, strict=True)]
        before = process_time()
        for request, trace, result in zip(requests, traces, results, strict=True):
            decisions.scheduled(request, "hash", candidates, trace, result, 0.0)
        least = min(least, (process_time() - before) / REQUESTS * 1e6)
    return least


def _request(request_id: str) -> Request:
    request = Request(request_id, {})
    request.payload = Payload(model="m")
    return request


def memory(endpoints: int) -> tuple[float, int]:
    """MB that KEPT decisions hold, and how many of them have their details."""
    service = make_service(keep=KEPT, endpoints=endpoints)
    director = service.director
    made = conversations(50)
    for messages in made:
        run(service, messages)
    director.decisions = Decisions(director.datastore.fleet, monotonic, keep=KEPT)
    gc.collect()
    tracemalloc.start()
    for number in range(KEPT):
        run(service, made[number % len(made)])
    gc.collect()
    with_ring = tracemalloc.get_traced_memory()[0]
    kept = sum(d.detail is not None for d in director.decisions.last(KEPT))
    director.decisions = Decisions(director.datastore.fleet, monotonic, keep=0)
    gc.collect()
    held = with_ring - tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / 1e6, kept


def telling(endpoints: int) -> tuple[float, float]:
    """ms to work out one explanation, and one header."""
    service = make_service(keep=100, endpoints=endpoints)
    for messages in conversations(20):
        run(service, messages)
    [decision] = service.director.decisions.last(1)
    costs = []
    for tell in (explanation, one_line):
        before = perf_counter()
        for _ in range(5):
            tell(decision)
        costs.append((perf_counter() - before) / 5 * 1e3)
    return costs[0], costs[1]


def main() -> None:
    for endpoints in (8, 64, 512):
        quartiles = {name: statistics.quantiles(each, n=4) for name, each in compare(endpoints).items()}
        (low, middle, _), (low_kept, middle_kept, _) = quartiles["without"], quartiles["with"]
        held, kept = memory(endpoints)
        whole, header = telling(endpoints)
        print(f"{endpoints} endpoints")
        print(f"  a request, lower quartile: {low:.1f} µs without, {low_kept:.1f} µs with: {low_kept - low:+.1f} µs")
        print(
            f"  a request, median:         {middle:.1f} µs without, {middle_kept:.1f} µs with: {middle_kept - middle:+.1f} µs"
        )
        print(f"  keeping alone:             {ring_alone(endpoints):.2f} µs")
        print(f"  {KEPT} decisions:           {held:.1f} MB, {kept} in detail")
        print(f"  telling one:               {whole:.2f} ms, as a header {header:.2f} ms")


if __name__ == "__main__":
    main()
