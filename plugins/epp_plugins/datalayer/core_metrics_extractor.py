"""core-metrics-extractor: which metrics of each engine hold the queue, the running requests, the KV cache usage, ..."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.api import ConfigError, Handle, Plugin, check_path, parse_spec
from epp_plugins.faults import about

BUILT_IN_ENGINES: Final = ("vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm", "triton", "llama.cpp")


class CustomMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A further metric, kept as the endpoint attribute `attributeKey`."""

    attribute_key: str
    metric_spec: str


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The metrics of one engine, each `family` or `family{label=value,...}`; empty: the engine has none.

    Replaces a built-in engine of the same name as a whole. Block size and number of blocks come from labels of
    `cacheInfoSpec`, or from metrics of their own. Where a page has no `kvUsageSpec`, the share of the blocks that are used
    counts (`kvUsedBlocksSpec`; ours).
    """

    name: str
    queued_requests_spec: str = ""
    running_requests_spec: str = ""
    kv_usage_spec: str = msgspec.field(default="", name="kvUsageSpec")
    lora_spec: str = ""
    cache_info_spec: str = ""
    cache_block_size_label_name: str = "block_size"
    cache_num_blocks_label_name: str = "num_gpu_blocks"
    cache_block_size_spec: str = ""
    cache_num_blocks_spec: str = ""
    kv_used_blocks_spec: str = ""
    custom_metrics: tuple[CustomMetric, ...] = ()
    path: str = "/metrics"


class CoreMetricsExtractor(Plugin):
    """Says which metrics to read; the service's collector reads them.

    An endpoint's engine is the value of its label `engineLabelKey`, else `defaultEngine`. Parameters are those of the Go
    EPP's core-metrics-extractor.
    """

    type = "core-metrics-extractor"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        engine_label_key: str = "llm-d.ai/engine-type"
        default_engine: str = "vllm"
        engine_configs: tuple[EngineConfig, ...] = ()

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        names = [engine.name for engine in params.engine_configs]
        for i, engine in enumerate(params.engine_configs):
            if engine.name in ("", "default"):
                raise ConfigError(f'engineConfigs[{i}].name: expected a name other than "default", got {engine.name!r}')
            if engine.name in names[:i]:
                raise ConfigError(f'engineConfigs[{i}].name: the engine "{engine.name}" is there already')
            _check(engine, f"engineConfigs[{i}]")
        known = [*BUILT_IN_ENGINES, *names]
        if params.default_engine not in known:
            raise ConfigError(
                f'defaultEngine: no engine is named "{params.default_engine}"; there are {", ".join(known)}'
            )


def _check(engine: EngineConfig, path: str) -> None:
    for field in msgspec.structs.fields(EngineConfig):
        if field.name.endswith("_spec"):
            with about(f"{path}.{field.encode_name}"):
                parse_spec(getattr(engine, field.name))
    keys = [metric.attribute_key for metric in engine.custom_metrics]
    for i, metric in enumerate(engine.custom_metrics):
        if not metric.attribute_key:
            raise ConfigError(f"{path}.customMetrics[{i}].attributeKey: must not be empty")
        if metric.attribute_key in keys[:i]:
            raise ConfigError(f'{path}.customMetrics[{i}].attributeKey: "{metric.attribute_key}" is there already')
        if not metric.metric_spec.strip():
            raise ConfigError(f"{path}.customMetrics[{i}].metricSpec: must not be empty")
        with about(f"{path}.customMetrics[{i}].metricSpec"):
            parse_spec(metric.metric_spec)
    with about(f"{path}.path"):
        check_path(engine.path)
