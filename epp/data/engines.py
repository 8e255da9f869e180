"""Which metrics each kind of model server publishes, as data, and which kind an endpoint is. Pure.

The built-in table holds the Go EPP's engines and llama.cpp. A configured engine replaces the built-in one of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from epp.api import CACHE_HIT_TOKENS, ConfigError, check_path, parse_spec
from epp.api.metric_spec import MetricSpec, MetricSpecError

ENGINE_LABEL: Final = "llm-d.ai/engine-type"
LEGACY_ENGINE_LABEL: Final = "inference.networking.k8s.io/engine-type"
DEFAULT_ENGINE: Final = "vllm"
METRICS_PATH: Final = "/metrics"
_BLANKS_AND_QUOTES: Final = " \t\"'"  # no spec begins or ends with one of them


class CustomMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A number that is kept as the endpoint's attribute `attribute_key`."""

    attribute_key: str
    metric_spec: str


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One engine as configuration files describe it (core-metrics-extractor, `engineConfigs`). Specs: see `metric_spec`."""

    name: str
    queued_requests_spec: str = ""
    running_requests_spec: str = ""
    kv_usage_spec: str = ""
    lora_spec: str = ""
    cache_info_spec: str = ""
    cache_block_size_label_name: str = "block_size"
    cache_num_blocks_label_name: str = "num_gpu_blocks"
    cache_block_size_spec: str = ""
    cache_num_blocks_spec: str = ""
    kv_used_blocks_spec: str = ""
    custom_metrics: tuple[CustomMetric, ...] = ()
    path: str = METRICS_PATH


class Engine(msgspec.Struct, frozen=True):
    """One engine, its specs parsed; None where it has no such metric.

    Where a page has no `kv_usage`, it is `kv_used_blocks` of the cache's blocks. The cache's shape comes from labels of
    `cache_info` or, where an engine has those, from the values of `cache_block_size` (tokens) and `cache_num_blocks`. `path`
    is where the engine serves its page unless the data source says otherwise.
    """

    name: str
    waiting: MetricSpec | None = None
    running: MetricSpec | None = None
    kv_usage: MetricSpec | None = None
    lora: MetricSpec | None = None
    cache_info: MetricSpec | None = None
    block_size_label: str = "block_size"
    num_blocks_label: str = "num_gpu_blocks"
    cache_block_size: MetricSpec | None = None
    cache_num_blocks: MetricSpec | None = None
    kv_used_blocks: MetricSpec | None = None
    custom: tuple[tuple[str, MetricSpec], ...] = ()
    path: str = METRICS_PATH

    @property
    def load_families(self) -> tuple[str, ...]:
        """Families whose presence on a page shows that it is this engine's."""
        specs = (self.waiting, self.running, self.kv_usage, self.kv_used_blocks)
        return tuple(spec.family for spec in specs if spec is not None)

    @property
    def families(self) -> frozenset[str]:
        """Every family that is read."""
        others = (self.lora, self.cache_info, self.cache_block_size, self.cache_num_blocks)
        families = {spec.family for spec in others if spec is not None}
        return frozenset(families | set(self.load_families) | {spec.family for _, spec in self.custom})


BUILTIN: Final[tuple[EngineConfig, ...]] = (
    EngineConfig(
        name="vllm",
        queued_requests_spec="vllm:num_requests_waiting",
        running_requests_spec="vllm:num_requests_running",
        kv_usage_spec="vllm:kv_cache_usage_perc",
        lora_spec="vllm:lora_requests_info",
        cache_info_spec="vllm:cache_config_info",
        custom_metrics=(CustomMetric(CACHE_HIT_TOKENS, "vllm:prefix_cache_hits_total"),),
    ),
    EngineConfig(
        name="sglang",
        queued_requests_spec="sglang:num_queue_reqs",
        running_requests_spec="sglang:num_running_reqs",
        kv_usage_spec="sglang:token_usage",
        cache_info_spec="sglang:cache_config_info",
        cache_block_size_label_name="page_size",
        cache_num_blocks_label_name="num_pages",
    ),
    EngineConfig(
        name="trtllm-serve",
        queued_requests_spec="trtllm_num_requests_waiting",
        running_requests_spec="trtllm_num_requests_running",
        kv_usage_spec="trtllm_kv_cache_utilization",
        cache_block_size_spec="trtllm_kv_cache_tokens_per_block",
        cache_num_blocks_spec="trtllm_kv_cache_max_blocks",
        path="/prometheus/metrics",
    ),
    EngineConfig(
        name="triton-tensorrt-llm",
        queued_requests_spec="nv_trt_llm_request_metrics{request_type=waiting}",
        running_requests_spec="nv_trt_llm_request_metrics{request_type=scheduled}",
        kv_usage_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
        cache_block_size_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}",
        cache_num_blocks_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}",
        kv_used_blocks_spec="nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=used}",
    ),
    # nv_inference_exec_count counts executions since the start; the Go EPP takes it for the running requests.
    EngineConfig(
        name="triton",
        queued_requests_spec="nv_inference_pending_request_count",
        running_requests_spec="nv_inference_exec_count",
    ),
    EngineConfig(
        name="llama.cpp",
        queued_requests_spec="llamacpp:requests_deferred",
        running_requests_spec="llamacpp:requests_processing",
        custom_metrics=(CustomMetric(CACHE_HIT_TOKENS, "llamacpp:prompt_tokens_cached_total"),),
    ),
)


def parse_engine(config: EngineConfig) -> Engine:
    """The engine that `config` describes. Raises ConfigError that names the engine and the field."""
    check_path(config.path)
    custom: list[tuple[str, MetricSpec]] = []
    for i, metric in enumerate(config.custom_metrics):
        spec = _spec(config.name, f"customMetrics[{i}].metricSpec", metric.metric_spec)
        if spec is not None:
            custom.append((metric.attribute_key, spec))
    return Engine(
        name=config.name,
        waiting=_spec(config.name, "queuedRequestsSpec", config.queued_requests_spec),
        running=_spec(config.name, "runningRequestsSpec", config.running_requests_spec),
        kv_usage=_spec(config.name, "kvUsageSpec", config.kv_usage_spec),
        lora=_spec(config.name, "loraSpec", config.lora_spec),
        cache_info=_spec(config.name, "cacheInfoSpec", config.cache_info_spec),
        block_size_label=config.cache_block_size_label_name,
        num_blocks_label=config.cache_num_blocks_label_name,
        cache_block_size=_spec(config.name, "cacheBlockSizeSpec", config.cache_block_size_spec),
        cache_num_blocks=_spec(config.name, "cacheNumBlocksSpec", config.cache_num_blocks_spec),
        kv_used_blocks=_spec(config.name, "kvUsedBlocksSpec", config.kv_used_blocks_spec),
        custom=tuple(custom),
        path=config.path,
    )


def _spec(engine: str, field: str, text: str) -> MetricSpec | None:
    try:
        return parse_spec(text)
    except MetricSpecError as error:
        raise ConfigError(f"engine {engine!r}: {field}: {error}") from error


class Engines:
    """All known engines, and the rule that finds an endpoint's: its label, else the default one."""

    def __init__(self, engines: Iterable[Engine], *, default: str, label_keys: tuple[str, ...]) -> None:
        self._by_name = {engine.name: engine for engine in engines}
        if default not in self._by_name:
            known = ", ".join(sorted(self._by_name))
            raise ConfigError(f"defaultEngine: no engine is named {default!r}; known are {known}")
        self.default = self._by_name[default]
        self.label_keys = label_keys

    def of_labels(self, labels: Mapping[str, str]) -> Engine | None:
        """The engine that an endpoint's labels name; None when no label does, or none that is known."""
        engines = (self._by_name.get(labels.get(key, "")) for key in self.label_keys)
        return next((engine for engine in engines if engine is not None), None)

    def detect(self, page: bytes) -> Engine | None:
        """The first engine, in the order of configuration, one of whose load families stands at a line start of `page`."""
        for engine in self._by_name.values():
            for family in engine.load_families:
                name = family.encode()
                if page.startswith(name) or b"\n" + name in page:
                    return engine
        return None

    def with_default(self, engine: Engine) -> Engines:
        """The same engines, with `engine` in place of the default one."""
        others = {**self._by_name, engine.name: engine}
        return Engines(others.values(), default=engine.name, label_keys=self.label_keys)


def load_engines(
    configs: Iterable[EngineConfig] = (), *, default_engine: str = DEFAULT_ENGINE, label_key: str = ENGINE_LABEL
) -> Engines:
    """The built-in engines and the configured ones. The legacy label is looked at when `label_key` is absent.

    Raises ConfigError: a spec that cannot be read, a name twice, the reserved name `default`, an unknown default engine.
    """
    engines = {config.name: parse_engine(config) for config in BUILTIN}
    seen: set[str] = set()
    for config in configs:
        if not config.name or config.name == "default":
            raise ConfigError(f"engineConfigs: {config.name!r} cannot be an engine's name")
        if config.name in seen:
            raise ConfigError(f"engineConfigs: engine {config.name!r} is configured twice")
        seen.add(config.name)
        engines[config.name] = parse_engine(config)
    label_keys = (label_key, LEGACY_ENGINE_LABEL) if label_key != LEGACY_ENGINE_LABEL else (label_key,)
    return Engines(engines.values(), default=default_engine, label_keys=label_keys)


def override_engine(
    engine: Engine,
    *,
    queued: str | None = None,
    running: str | None = None,
    kv_usage: str | None = None,
    lora: str | None = None,
    cache_info: str | None = None,
) -> Engine:
    """`engine` with the specs that the five deprecated `--*-metric` flags give; None: the flag is not set, "": no metric.

    Quotes around a value are dropped: the GIE chart passes them literally. Raises ConfigError.
    """
    given = {
        "waiting": ("--total-queued-requests-metric", queued),
        "running": ("--total-running-requests-metric", running),
        "kv_usage": ("--kv-cache-usage-percentage-metric", kv_usage),
        "lora": ("--lora-info-metric", lora),
        "cache_info": ("--cache-info-metric", cache_info),
    }
    changes: dict[str, MetricSpec | None] = {}
    for field, (flag, text) in given.items():
        if text is None:
            continue
        try:
            changes[field] = parse_spec(text.strip(_BLANKS_AND_QUOTES))
        except MetricSpecError as error:
            raise ConfigError(f"{flag}: {error}") from error
    return msgspec.structs.replace(engine, **changes)
