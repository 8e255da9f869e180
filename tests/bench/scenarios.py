"""The rows of the table: which load, in which setting, how often. Another one is another entry of SCENARIOS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.bench import components
from tests.bench.load import ClosedLoop, Counted, Load, Paced
from tests.bench.stage import Setting

# Metrics are read seldom where requests are measured: at 50 ms and few requests, most of the CPU would be the scraping's,
# which has its own scenario.
EIGHT: Final = Setting("8-endpoints", endpoints=8, vllm_page=False, refresh_ms=1000)
MANY: Final = Setting("512-endpoints", endpoints=512, vllm_page=False, refresh_ms=5000)
PAGES: Final = Setting("100-vllm-pages", endpoints=100, vllm_page=True, refresh_ms=50)
MANY_PAGES: Final = Setting("1000-vllm-pages", endpoints=1000, vllm_page=True, refresh_ms=250)

PARTS: Final = "parts"
"""The column of component scenarios."""


@dataclass(frozen=True, slots=True)
class LoadScenario:
    """Requests through each column's Envoy."""

    key: str
    title: str
    setting: Setting
    load: Load
    bodies: str = "all"
    also: tuple[str, ...] = ()
    """Metrics to show besides CPU per request; all are kept."""
    quick: bool = False
    rounds: int = 5

    @property
    def shows_latency(self) -> bool:
        return not {"added_p50_us", "added_p99_us"}.isdisjoint(self.also)


@dataclass(frozen=True, slots=True)
class IdleScenario:
    """No requests, only what the EPPs do by themselves."""

    key: str
    title: str
    setting: Setting
    settle_s: float
    duration_s: float
    quick: bool = False
    rounds: int = 2


@dataclass(frozen=True, slots=True)
class ComponentScenario:
    """Our own parts alone, without sockets between them."""

    key: str
    title: str
    measure: Callable[[], Mapping[str, float]]
    """Metric → value."""
    quick: bool = False


Scenario = LoadScenario | IdleScenario | ComponentScenario

_LATENCY: Final = ("added_p50_us", "added_p99_us")
_STREAM: Final = Paced(rate=47, duration_s=2.0, chunks=64, gap_ms=5)  # 47: streams do not tick in step
_SLOW_STREAMS: Final = Counted(requests=8, at_once=4, body_bytes=400_000, chunks=1000, gap_ms=2)

WITHOUT_BODIES: Final = {"stream-64": "stream-64-none"}
"""Scenario → the same without bodies: what they differ by is the cost of chunks."""

SCENARIOS: Final[tuple[Scenario, ...]] = (
    LoadScenario("closed-1", "1 KiB, closed loop of 1", EIGHT, ClosedLoop(1), also=_LATENCY, quick=True),
    LoadScenario("closed-16", "1 KiB, closed loop of 16", EIGHT, ClosedLoop(16), also=("rps", "rss_mib"), quick=True),
    LoadScenario("closed-64", "1 KiB, closed loop of 64", EIGHT, ClosedLoop(64), also=("rps",)),
    LoadScenario("paced-300", "1 KiB, 300 req/s", EIGHT, Paced(300, duration_s=4.0), also=_LATENCY, quick=True),
    LoadScenario("paced-2000", "1 KiB, 2,000 req/s", EIGHT, Paced(2000), also=("rps", *_LATENCY), rounds=3),
    LoadScenario(
        "prompt-220k", "220 KB prompts, closed loop of 4", EIGHT, ClosedLoop(4, body_bytes=220_000), quick=True
    ),
    LoadScenario(
        "stream-64", "64-token streams, bodies: all", EIGHT, _STREAM, also=("chunk_us", "messages"), quick=True
    ),
    LoadScenario(
        "stream-64-none",
        "64-token streams, bodies: none",
        EIGHT,
        _STREAM,
        bodies="none",
        also=("messages",),
        quick=True,
    ),
    LoadScenario(
        "stream-64-sampled", "64-token streams, bodies: 1 in 5", EIGHT, _STREAM, bodies="sampled", also=("messages",)
    ),
    LoadScenario("long", "400 KB prompt + 1,000 chunks", EIGHT, _SLOW_STREAMS, rounds=3),
    LoadScenario("many", "512 endpoints, 1 KiB, closed loop of 16", MANY, ClosedLoop(16)),
    IdleScenario("idle-100", "idle, 100 vLLM pages of 53 KB at 50 ms", PAGES, settle_s=1.5, duration_s=5.0, quick=True),
    IdleScenario(
        "idle-1000", "idle, 1,000 vLLM pages of 53 KB at 250 ms", MANY_PAGES, settle_s=3.0, duration_s=5.0, quick=True
    ),
    ComponentScenario("pick", "one pick, default profile", components.pick, quick=True),
    ComponentScenario("prefix", "prefix index, 250,000 blocks", components.prefix, quick=True),
    ComponentScenario("prefix-full", "prefix index, 10 million blocks", components.full_prefix),
    ComponentScenario("python-scorer", "one pick, a scorer in plain Python", components.python_scorer, quick=True),
    ComponentScenario("explain", "keeping a decision", components.explain, quick=True),
    ComponentScenario("reload", "reload of 40 plugins, 64 endpoints", components.reload, quick=True),
    ComponentScenario("kubernetes", "a pool of 5,000 Pods, 1,000 events/s", components.kubernetes, quick=True),
    ComponentScenario("scan", "scan of one vLLM page", components.scan, quick=True),
    ComponentScenario("precise", "precise prefix index", components.precise, quick=True),
    ComponentScenario("latency", "latency prediction", components.latency, quick=True),
    ComponentScenario("latency-live", "latency prediction at work, training beside it", components.latency_live),
    ComponentScenario("http2", "gRPC echo without a gateway", components.http2),
)
