"""Parts that have benchmarks of their own, run here with the same figures as there."""

from __future__ import annotations

from statistics import median
from typing import Final

from epp.api import Request
from tests.bench import (
    bench_explain,
    bench_http2_echo,
    bench_kubernetes,
    bench_kv_events,
    bench_latency,
    bench_latency_live,
    bench_pick,
    bench_prefix_index,
    bench_reload,
    bench_scrape,
)

_USUAL_BLOCKS: Final = 250_000  # eight engines' caches
_ECHO_ROUNDS: Final = 3
_ECHO_CALLS: Final = 1000
_ECHO_CONCURRENCY: Final = 16


def pick() -> dict[str, float]:
    """The pick itself, and with hashing and looking up the prompt (`both`), at 8 and at 512 endpoints."""
    found: dict[str, float] = {}
    for count in (8, 512):
        bench, some = bench_pick.Bench(count), bench_pick.requests(1024)
        for request in some:
            bench.whole(request)
        found[f"pick_{count}_us"] = bench_pick.best_us(lambda i, b=bench, r=some: b.pick(r[i]))  # type: ignore[misc]
        found[f"both_{count}_us"] = bench_pick.best_us(lambda i, b=bench, r=some: _both(b, r[i]))  # type: ignore[misc]
    return found


def _both(bench: bench_pick.Bench, request: Request) -> None:
    bench.produce(request)
    bench.pick(request)


def prefix() -> dict[str, float]:
    """Hashing a prompt and looking it up, where a part of it is held."""
    return _prefix(_USUAL_BLOCKS)


def full_prefix() -> dict[str, float]:
    """The same, and the memory, with ten million blocks."""
    return _prefix(bench_prefix_index.ALL_BLOCKS)


def _prefix(blocks: int) -> dict[str, float]:
    found = bench_prefix_index.figures(blocks)
    return {
        "lookup_1k_us": found["1 KiB: hash and look up, held, us"],
        "lookup_400k_ms": found["400 KB: hash and look up, held, us"] / 1e3,
        "memory_gb": found[bench_prefix_index.MEMORY] / 1e3,
        "stall_ms": found["the longest insertion while it grew, ms"],
    }


def python_scorer() -> dict[str, float]:
    """A scorer that goes through the candidates in a Python loop, alone in its profile, beside the one that does not."""
    bench, some = bench_pick.Bench(512), bench_pick.requests(1024)
    candidates, loop, vector = bench.fleet.candidates(), bench.loop_profile(), bench.vector_profile()
    return {
        "loop_512_us": bench_pick.best_us(lambda i: loop.run(some[i], candidates), calls=200),
        "vector_512_us": bench_pick.best_us(lambda i: vector.run(some[i], candidates), calls=200),
    }


def explain() -> dict[str, float]:
    """What the ring of decisions adds to a request with 8 and with 512 endpoints."""
    return {f"keep_{count}_us": bench_explain.ring_alone(count) for count in (8, 512)}


def reload() -> dict[str, float]:
    """A configuration of forty plugins that all change, while requests come and the prefix index is full."""
    return {f"{name}_ms": value for name, value in bench_reload.measure().items()}


def kubernetes() -> dict[str, float]:
    """A pool of 5,000 Pods: the start, a thousand events a second, and removals among them."""
    return bench_kubernetes.measure()


def scan() -> dict[str, float]:
    """Reading the real page of a loaded vLLM: the first one, as it goes on while idle, and with every number changed."""
    return {f"{name}_us": us for name, us in bench_scrape.scan_us(bench_scrape.PAGE.read_bytes()).items()}


def precise() -> dict[str, float]:
    """The precise prefix index: lookups of prompts that are tokenized, and blocks of KV events."""
    return bench_kv_events.lookups() | bench_kv_events.messages()


def latency() -> dict[str, float]:
    """Predicting for 8, 32 and 128 candidates inside the EPP, following the answer, and what both add to a request."""
    return bench_latency.figures()


def latency_live() -> dict[str, float]:
    """Predictions in an event loop at work, and how late that is, while the training process fits all the time."""
    return bench_latency_live.measured()


def http2() -> dict[str, float]:
    """A short call on epp.http2 and on grpc.aio, asked by a gRPC client."""
    lean: list[float] = []
    aio: list[float] = []
    with (
        bench_http2_echo.server("-m", "tests.support.h2spec_server", "--uvloop") as lean_server,
        bench_http2_echo.server(bench_http2_echo.__file__, "--serve-grpc-aio") as aio_server,
    ):
        for round_number in range(_ECHO_ROUNDS + 1):
            pair = [
                bench_http2_echo.cost_us(*server, _ECHO_CALLS, _ECHO_CONCURRENCY)
                for server in (lean_server, aio_server)
            ]
            if round_number:  # the first warms both up
                lean.append(pair[0])
                aio.append(pair[1])
    return {"lean_call_us": median(lean), "aio_call_us": median(aio)}
