"""What one simulated model server is: its addresses, its limits, its costs. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StepCost:
    """How long one engine step takes: a fixed part, plus every prompt token computed, plus every sequence decoding.

    The defaults are a small GPU with an 8B model: 100 ms for 1000 prompt tokens, about 10 ms a decode step.
    """

    base_ms: float = 10.0
    prefill_ms_per_1k_tokens: float = 100.0
    decode_ms_per_sequence: float = 0.1
    lora_factor: float = 1.0
    """Times the cost of a token or sequence that uses an adapter (measured on real vLLM, CPU: 3)."""
    speed: float = 1.0
    """Everything is this many times faster; below 1, slower."""

    def __post_init__(self) -> None:
        for name in ("base_ms", "prefill_ms_per_1k_tokens", "decode_ms_per_sequence", "lora_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative; expected 0 or more")
        if self.speed <= 0:
            raise ValueError(f"speed: {self.speed} is not positive; expected a factor such as 1 or 10")

    def step_s(self, prefill_tokens: float, decoding: float) -> float:
        """Duration of a step in seconds. Adapter work is counted in already weighted by `lora_factor`."""
        work_ms = prefill_tokens * self.prefill_ms_per_1k_tokens / 1000 + decoding * self.decode_ms_per_sequence
        return (self.base_ms + work_ms) / 1000 / self.speed


@dataclass(frozen=True, slots=True)
class SimConfig:
    """One server. Sizes as vLLM names them; `blocks` includes the null block that vLLM keeps for itself."""

    name: str = "sim-0"
    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one, chosen at the first start and kept over restarts."""
    model: str = "sim-model"
    loras: tuple[str, ...] = ()
    max_loras: int = 2
    """Adapters that may be in one batch; requests for a further one wait (vLLM: `--max-loras`)."""
    cost: StepCost = field(default_factory=StepCost)
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_queued_requests: int | None = None
    """Waiting requests beyond which a request is answered 503 (vLLM: `--max-num-queued-reqs`); None: no limit."""
    blocks: int = 8192
    block_size: int = 16
    max_model_len: int | None = None
    """Tokens of prompt and output together; None: as many as the KV cache holds."""
    output_tokens: int = 64
    """Length of an answer whose request sets no limit; it then ends with finish_reason "stop"."""
    stream_interval: int = 1
    """Tokens a stream collects before a chunk is sent (vLLM: `--stream-interval`)."""
    metrics_padding_bytes: int = 0
    request_log: int = 1000
    """Received requests kept for `GET /sim/requests` and `SimServer.requests`."""

    def __post_init__(self) -> None:
        least = {
            "max_loras": 1,
            "max_num_seqs": 1,
            "max_num_batched_tokens": 1,
            "blocks": 2,
            "block_size": 1,
            "output_tokens": 1,
            "stream_interval": 1,
            "metrics_padding_bytes": 0,
            "request_log": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}: {getattr(self, name)} is too small; expected {minimum} or more")
        if self.max_queued_requests is not None and self.max_queued_requests < 1:
            raise ValueError(f"max_queued_requests: {self.max_queued_requests} is too small; expected 1 or more")
        if self.max_model_len is not None and not 1 <= self.max_model_len <= self.kv_capacity_tokens:
            raise ValueError(
                f"max_model_len: {self.max_model_len} does not fit the KV cache; "
                f"expected 1..{self.kv_capacity_tokens}, or more blocks"
            )
        if self.model in self.loras or len(set(self.loras)) != len(self.loras):
            raise ValueError(f"loras: {', '.join(self.loras)}: names must differ from each other and from the model's")

    @property
    def kv_capacity_tokens(self) -> int:
        return (self.blocks - 1) * self.block_size

    @property
    def context_tokens(self) -> int:
        """The longest prompt plus output that a request may ask for."""
        return self.kv_capacity_tokens if self.max_model_len is None else self.max_model_len
