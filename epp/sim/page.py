"""The /metrics page: names, labels, order and number format of vLLM 0.32, as captured from a real server. No I/O.

Scrapers come every 50 ms, so the page is cached: as a whole while nothing changed, and histogram by histogram, since under
load most of them stand still between two scrapes.
"""

from __future__ import annotations

from collections.abc import Mapping

from epp.sim.config import SimConfig
from epp.sim.stats import Histogram, Stats

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

CACHE_LABELS = (
    '_block_size_resolved="True",block_size="{block_size}",cache_dtype="auto",cache_hit_alignment_tokens="None",'
    'effective_attention_block_size="{block_size}",enable_mamba_shared_prefix_checkpoint="False",'
    'enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.92",hash_block_size="None",'
    'is_attention_free="False",kv_cache_dtype_skip_layers="[]",kv_cache_layout="None",'
    'kv_cache_max_concurrency="{concurrency}",kv_cache_memory_bytes="None",kv_cache_size_tokens="{tokens}",'
    'kv_offloading_backend="native",kv_offloading_size="None",kv_sharing_fast_prefill="False",mamba_block_size="None",'
    'mamba_cache_dtype="auto",mamba_cache_mode="none",mamba_page_size_padded="None",mamba_ssm_cache_dtype="float32",'
    'num_cpu_blocks="None",num_gpu_blocks="{blocks}",num_gpu_blocks_override="{blocks}",'
    'prefix_cache_retention_interval="0",prefix_caching_hash_algo="xxhash",prefix_match_unit="None",'
    'replayssm_buffer_len="16",skip_page_size_padded="None",sliding_window="None",swa_bounded_replay="True",'
    'use_kda_recoverssm="False",use_replayssm="False",user_specified_block_size="True"'
)

HISTOGRAMS = (
    ("request_prompt_tokens", "Number of prefill tokens processed.", "request_prompt"),
    ("request_generation_tokens", "Number of generation tokens processed.", "request_generation"),
    ("iteration_tokens_total", "Histogram of number of tokens per engine_step.", "step_tokens"),
    (
        "request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        "max_generation",
    ),
    ("request_params_n", "Histogram of the n request parameter.", "params_n"),
    ("request_params_max_tokens", "Histogram of the max_tokens request parameter.", "params_max_tokens"),
    ("time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft"),
    ("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "inter_token"),
    (
        "request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        "time_per_token",
    ),
    ("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", "e2e"),
    ("request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", "queue_time"),
    ("request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", "inference_time"),
    ("request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", "prefill_time"),
    ("request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", "decode_time"),
    ("request_num_preemptions", "Histogram of the number of times a request was preempted.", "request_preemptions"),
    (
        "request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        "request_computed",
    ),
)
"""Name without `vllm:`, HELP text, attribute of Stats; in the order of the real page."""


def number(value: float) -> str:
    """As prometheus_client prints it: 3.0, 0.25, and 1.7952280423496747e+09 from a million up."""
    text = repr(float(value))
    dot = text.find(".")
    if dot <= 6 or "e" in text:
        return text
    digits = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0")
    return f"{digits.rstrip('.')}e+{dot - 1:02d}"


def label_value(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def padding(size_bytes: int) -> str:
    """At least `size_bytes` of a family that no scheduler reads, in lines about as long as those of a real page."""
    if not size_bytes:
        return ""
    family = "http_request_duration_highr_seconds"
    lines = [f"# HELP {family} Latency with many buckets but no API specific labels.", f"# TYPE {family} histogram"]
    size = sum(len(line) + 1 for line in lines)
    while size < size_bytes:
        lines.append(f'{family}_bucket{{handler="/v1/completions",le="{len(lines) - 1}.0"}} 0.0')
        size += len(lines[-1]) + 1
    return "\n".join(lines) + "\n"


class MetricsPage:
    """Renders the page of one server. `epoch_offset_s` turns the engine's clock into unix time."""

    def __init__(self, config: SimConfig, stats: Stats, *, created_s: float, epoch_offset_s: float) -> None:
        self._stats = stats
        self._has_loras = bool(config.loras)
        self._max_loras = config.max_loras
        self._epoch_offset_s = epoch_offset_s
        self._created = number(created_s)
        self._model = f'model_name="{label_value(config.model)}"'
        self._labels = f'engine="0",{self._model}'
        self._padding = padding(config.metrics_padding_bytes)
        concurrency = number(round(config.kv_capacity_tokens / config.context_tokens, 3))
        self._cache_labels = CACHE_LABELS.format(
            block_size=config.block_size,
            blocks=config.blocks,
            tokens=config.kv_capacity_tokens,
            concurrency=concurrency,
        )
        self._histogram_texts: dict[str, tuple[int, str]] = {}
        self._version = -1
        self._page = b""

    def render(self) -> bytes:
        """The whole page, UTF-8; the same object while nothing was published."""
        if self._version != self._stats.version:
            self._version = self._stats.version
            histograms = (self._histogram(name, help_text, attribute) for name, help_text, attribute in HISTOGRAMS)
            parts = (self._gauges(), self._counters(), *histograms, self._lora_info(), self._cache_info())
            self._page = "".join((*parts, self._padding)).encode()
        return self._page

    def _gauges(self) -> str:
        gauges = self._stats.gauges
        by_reason = {
            f'{self._labels},reason="capacity"': gauges.waiting - gauges.deferred,
            f'{self._labels},reason="deferred"': gauges.deferred,
        }
        return "".join(
            (
                self._gauge("num_requests_running", "Number of requests in model execution batches.", gauges.running),
                self._gauge("num_requests_waiting", "Number of requests waiting to be processed.", gauges.waiting),
                _family("num_requests_waiting_by_reason", "Number of waiting requests by reason.", "gauge", by_reason),
                self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", gauges.kv_usage),
            )
        )

    def _counters(self) -> str:
        stats = self._stats
        local = stats.prompt_tokens - stats.prompt_tokens_cached
        sources = {"local_compute": local, "local_cache_hit": stats.prompt_tokens_cached, "external_kv_transfer": 0}
        return "".join(
            (
                self._counter(
                    "prefix_cache_queries",
                    "Prefix cache queries, in terms of number of queried tokens.",
                    {self._labels: stats.prefix_queries},
                ),
                self._counter(
                    "prefix_cache_hits",
                    "Prefix cache hits, in terms of number of cached tokens.",
                    {self._labels: stats.prefix_hits},
                ),
                self._counter(
                    "num_preemptions",
                    "Cumulative number of preemption from the engine.",
                    {self._labels: stats.preemptions},
                ),
                self._counter(
                    "prompt_tokens", "Number of prefill tokens processed.", {self._labels: stats.prompt_tokens}
                ),
                self._counter(
                    "prompt_tokens_by_source",
                    "Number of prompt tokens by source.",
                    {f'{self._labels},source="{source}"': count for source, count in sources.items()},
                ),
                self._counter(
                    "prompt_tokens_cached",
                    "Number of cached prompt tokens (local + external).",
                    {self._labels: stats.prompt_tokens_cached},
                ),
                self._counter(
                    "generation_tokens",
                    "Number of generation tokens processed.",
                    {self._labels: stats.generation_tokens},
                ),
                self._counter(
                    "request_success",
                    "Count of successfully processed requests.",
                    {
                        f'engine="0",finished_reason="{reason}",{self._model}': count
                        for reason, count in stats.finished.items()
                    },
                ),
                self._counter(
                    "admission_rejections",
                    "Number of admission attempts rejected by a queue limit, by reason.",
                    {
                        f'{self._model},reason="max_num_queued_reqs"': stats.rejected,
                        f'{self._model},reason="max_num_queued_tokens"': 0,
                    },
                ),
            )
        )

    def _lora_info(self) -> str:
        if not self._has_loras:
            return ""
        samples: dict[str, float] = {}
        for adapters, seen_s in self._stats.lora_seen.items():
            names = label_value(",".join(adapters))
            labels = f'max_lora="{self._max_loras}",running_lora_adapters="{names}",waiting_lora_adapters="{names}"'
            samples[labels] = seen_s + self._epoch_offset_s
        return _family("lora_requests_info", "Running stats on lora requests.", "gauge", samples)

    def _cache_info(self) -> str:
        help_text = "Information of the LLMEngine CacheConfig"
        return _family("cache_config_info", help_text, "gauge", {self._cache_labels: 1})

    def _gauge(self, name: str, help_text: str, value: float) -> str:
        return _family(name, help_text, "gauge", {self._labels: value})

    def _counter(self, name: str, help_text: str, samples: dict[str, int]) -> str:
        created = "".join(f"vllm:{name}_created{{{labels}}} {self._created}\n" for labels in samples)
        head = f"# HELP vllm:{name}_created {help_text}\n# TYPE vllm:{name}_created gauge\n"
        return _family(f"{name}_total", help_text, "counter", samples) + head + created

    def _histogram(self, name: str, help_text: str, attribute: str) -> str:
        histogram: Histogram = getattr(self._stats, attribute)
        changes, text = self._histogram_texts.get(name, (-1, ""))
        if changes != histogram.changes:
            text = self._histogram_text(name, help_text, histogram)
            self._histogram_texts[name] = (histogram.changes, text)
        return text

    def _histogram_text(self, name: str, help_text: str, histogram: Histogram) -> str:
        lines = [f"# HELP vllm:{name} {help_text}", f"# TYPE vllm:{name} histogram"]
        total = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += count
            le = "+Inf" if bound == float("inf") else bound
            lines.append(f'vllm:{name}_bucket{{engine="0",le="{le}",{self._model}}} {total}.0')
        lines += (
            f"vllm:{name}_count{{{self._labels}}} {total}.0",
            f"vllm:{name}_sum{{{self._labels}}} {number(histogram.total)}",
            f"# HELP vllm:{name}_created {help_text}",
            f"# TYPE vllm:{name}_created gauge",
            f"vllm:{name}_created{{{self._labels}}} {self._created}",
            "",
        )
        return "\n".join(lines)


def _family(name: str, help_text: str, kind: str, samples: Mapping[str, float]) -> str:
    head = f"# HELP vllm:{name} {help_text}\n# TYPE vllm:{name} {kind}\n"
    return head + "".join(f"vllm:{name}{{{labels}}} {number(value)}\n" for labels, value in samples.items())
