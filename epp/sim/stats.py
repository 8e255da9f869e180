"""What the engine has counted: the numbers behind /metrics, changed at step ends only. No I/O, no clock."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

# Bucket bounds as on the metrics page of vLLM 0.32.
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
          160.0, 640.0, 2560.0)  # fmt: skip
TOKEN_GAP_S = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
REQUEST_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
             1920.0, 7680.0)  # fmt: skip
STEP_TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
REQUEST_COUNT = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)


def token_bounds(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to the context length, as vLLM builds them from max_model_len."""
    bounds: list[float] = []
    power = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * power > most:
                return tuple(bounds)
            bounds.append(float(mantissa * power))
        power *= 10


class Histogram:
    """Counts per bucket, not cumulated; the last one is +Inf. `changes` tells a reader whether its text is stale."""

    __slots__ = ("bounds", "changes", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.changes = 0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
        self.changes += 1

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of the engine as of the end of its last step."""

    running: int = 0
    waiting: int = 0
    deferred: int = 0
    """Those of the waiting that an adapter limit holds back."""
    kv_usage: float = 0.0


@dataclass(slots=True)
class Stats:
    """Everything the page shows. Token counters count tokens; times are seconds of the engine's clock."""

    context_tokens: int
    version: int = 0
    """Goes up whenever something a reader may see has changed."""
    gauges: Gauges = field(default_factory=Gauges)
    steps: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    generation_tokens: int = 0
    rejected: int = 0
    finished: dict[str, int] = field(
        default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
    )
    lora_seen: dict[tuple[str, ...], float] = field(default_factory=dict)
    """When each set of adapters was last the current one. Old sets stay, as on vLLM's page."""
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_S))
    inter_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_GAP_S))
    time_per_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_GAP_S))
    e2e: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))
    queue_time: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))
    inference_time: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))
    prefill_time: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))
    decode_time: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))
    step_tokens: Histogram = field(default_factory=lambda: Histogram(STEP_TOKENS))
    params_n: Histogram = field(default_factory=lambda: Histogram(REQUEST_COUNT))
    request_preemptions: Histogram = field(default_factory=lambda: Histogram(PREEMPTIONS))
    request_prompt: Histogram = field(init=False)
    request_generation: Histogram = field(init=False)
    request_computed: Histogram = field(init=False)
    max_generation: Histogram = field(init=False)
    params_max_tokens: Histogram = field(init=False)

    def publish(self, gauges: Gauges) -> None:
        self.gauges = gauges
        self.version += 1

    def reject(self) -> None:
        """One more request turned away because the queue was full."""
        self.rejected += 1
        self.version += 1

    def __post_init__(self) -> None:
        bounds = token_bounds(self.context_tokens)
        self.request_prompt = Histogram(bounds)
        self.request_generation = Histogram(bounds)
        self.request_computed = Histogram(bounds)
        self.max_generation = Histogram(bounds)
        self.params_max_tokens = Histogram(bounds)
