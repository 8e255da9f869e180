"""What the project has set itself, one line each, judged by figures of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.bench.results import Results
from tests.bench.scenarios import PARTS

FULL: Final = ("epp-lean", "epp-grpcio")
"""The column that is judged: the first of these that was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """`metric` of the full EPP, as a multiple of `other`'s or, without one, as it is, is at most (or at least) `limit`."""

    title: str
    scenario: str
    metric: str
    limit: float
    other: str | None = None
    at_least: bool = False
    column: str | None = None
    """Judged instead of the full EPP."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`measured` is None where the run lacks a figure for it."""

    target: Target
    measured: float | None

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.target.limit if self.target.at_least else self.measured <= self.target.limit


TARGETS: Final = (
    Target("1 KiB, closed loop of 16: CPU, of the grpc.aio echo", "closed-16", "cpu_us", 0.2, "echo-aio"),
    Target("1 KiB, closed loop of 16: CPU, of the lean echo", "closed-16", "cpu_us", 3.0, "echo-lean"),
    Target("220 KB prompts: CPU, of the lean echo", "prompt-220k", "cpu_us", 3.0, "echo-lean"),
    Target("streamed chunk: CPU, of the lean echo", "stream-64", "chunk_us", 1.4, "echo-lean"),
    # Request headers, body, the body's empty end, response headers: what is there without a single chunk.
    Target("64-token stream without bodies: messages", "stream-64-none", "messages", 4.0),
    Target("400 KB + 1,000 chunks: CPU, of the lean echo", "long", "cpu_us", 1.5, "echo-lean"),
    Target("idle, 100 vLLM pages at 50 ms: cores", "idle-100", "cores", 0.3),
    Target("idle, 100 vLLM pages at 50 ms: µs CPU a page", "idle-100", "page_cpu_us", 120.0),
    Target("idle, 1,000 vLLM pages at 250 ms: cores", "idle-1000", "cores", 1.0),
    Target(
        "latency prediction, 1 KiB, closed loop of 16: CPU, of the same without",
        "closed-16",
        "cpu_us",
        1.6,
        "epp-lean",
        column="epp-predict",
    ),
    Target("1 KiB, closed loop of 16: CPU, of the Go EPP", "closed-16", "cpu_us", 1 / 3, "go-epp"),
    Target("220 KB prompts: CPU, of the Go EPP", "prompt-220k", "cpu_us", 0.2, "go-epp"),
    Target("64-token streams with bodies: CPU, of the Go EPP", "stream-64", "cpu_us", 0.6, "go-epp"),
    Target("400 KB + 1,000 chunks: CPU, of the Go EPP", "long", "cpu_us", 0.4, "go-epp"),
    Target("300 req/s: added latency p50, of the Go EPP", "paced-300", "added_p50_us", 1.0, "go-epp"),
    Target("300 req/s: added latency p99, of the Go EPP", "paced-300", "added_p99_us", 1.0, "go-epp"),
    Target("closed loop of 64: requests/s, of the lean echo", "closed-64", "rps", 0.6, "echo-lean", at_least=True),
    Target("pick with prefix lookup, 8 endpoints: µs", "pick", "both_8_us", 20.0, column=PARTS),
    Target("pick with prefix lookup, 512 endpoints: µs", "pick", "both_512_us", 60.0, column=PARTS),
    Target("prefix index, 1 KiB prompt: µs", "prefix", "lookup_1k_us", 10.0, column=PARTS),
    Target("prefix index, 400 KB prompt: ms", "prefix", "lookup_400k_ms", 2.0, column=PARTS),
    Target("prefix index, 10 million blocks: GB", "prefix-full", "memory_gb", 1.0, column=PARTS),
    Target("prefix index, 10 million blocks, 400 KB prompt: ms", "prefix-full", "lookup_400k_ms", 2.0, column=PARTS),
    Target("precise lookup, 1 KiB, 8 endpoints: µs", "precise", "lookup_8_us", 20.0, column=PARTS),
    Target("precise lookup, 400 KB, 8 endpoints: µs", "precise", "long_lookup_8_us", 2000.0, column=PARTS),
    Target("pick, default profile, 8 endpoints: µs", "pick", "pick_8_us", 15.0, column=PARTS),
    Target("pick, default profile, 512 endpoints: µs", "pick", "pick_512_us", 60.0, column=PARTS),
    Target("latency prediction, 32 candidates: µs", "latency", "predict_32_us", 110.0, column=PARTS),
    Target("latency prediction, 128 candidates: µs", "latency", "predict_128_us", 300.0, column=PARTS),
    Target("latency prediction, 32 candidates: µs, p99", "latency", "predict_32_p99_us", 110.0, column=PARTS),
    Target("latency prediction, 128 candidates: µs, p99", "latency", "predict_128_p99_us", 300.0, column=PARTS),
    Target("the same at work, 32 candidates: µs, p99", "latency-live", "p99_32_us", 110.0, column=PARTS),
    Target("the same at work, 128 candidates: µs, p99", "latency-live", "p99_128_us", 300.0, column=PARTS),
    Target("event loop's lag while latencies are learnt: ms, p99", "latency-live", "lag_p99_ms", 1.0, column=PARTS),
    Target("keeping a decision, 8 endpoints: µs", "explain", "keep_8_us", 3.0, column=PARTS),
    Target("reload of 40 plugins: ms", "reload", "reload_ms", 100.0, column=PARTS),
    Target("5,000 Pods of Kubernetes are endpoints: s", "kubernetes", "start_s", 5.0, column=PARTS),
    Target("1,000 Pod events a second: cores", "kubernetes", "cores", 0.3, column=PARTS),
    Target("slowest removal of a Pod among them: ms", "kubernetes", "removal_ms", 100.0, column=PARTS),
    Target("reload of 40 plugins: slowest request meanwhile, ms", "reload", "slowest_ms", 10.0, column=PARTS),
    Target("scan of a vLLM page, all of it changed: µs", "scan", "busy_us", 120.0, column=PARTS),
)


def judge(results: Results) -> list[Verdict]:
    """A verdict on every target, in their order."""
    return [Verdict(target, _measured(results, target)) for target in TARGETS]


def judged_column(results: Results) -> str:
    """The full EPP that the verdicts are about."""
    measured = {column for columns in results.rounds.values() for column in columns}
    return next((column for column in FULL if column in measured), FULL[0])


def _measured(results: Results, target: Target) -> float | None:
    column = target.column or judged_column(results)
    if target.other is None:
        return results.value(target.scenario, column, target.metric)
    return results.ratio(target.scenario, target.metric, column, target.other)
