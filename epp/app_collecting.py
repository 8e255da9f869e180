"""Which collectors a configuration asks for: one for each data source, the model servers' metrics first."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from epp.api import DataSource, Extractor, Fetch, Fleet, Plugin
from epp.cli.options import RunOptions
from epp.config import Pipeline
from epp.config.resolved import DataLayer, SourceSpec
from epp.config.roles import METRICS_EXTRACTOR, METRICS_SOURCE
from epp.data.collector import Collector, ScrapeStatus
from epp.data.engines import METRICS_PATH, EngineConfig, Engines, load_engines, override_engine
from epp.data.metrics_source import MetricsSource

_log: Final = logging.getLogger("epp")


class Collecting(msgspec.Struct, frozen=True):
    """The collectors of one configuration. `metrics` reads the load of model servers; None where nothing asks for that."""

    collectors: tuple[Collector, ...]
    types: tuple[str, ...]  # of their sources
    metrics: Collector | None

    def fresh_for_s(self, threshold_s: float) -> float:
        """How long what was read counts as fresh: `threshold_s`, or longer where it is read more seldom than that."""
        return threshold_s if self.metrics is None else max(threshold_s, self.metrics.least_age_s)

    def errors(self) -> list[tuple[str, int, Mapping[str, int]]]:
        """Of each collector the type of its source, readings that failed, and by extractor type what it could not read."""
        return [
            (source_type, collector.errors.polls, collector.errors.unreadable)
            for source_type, collector in zip(self.types, self.collectors, strict=True)
        ]

    def statuses(self) -> list[ScrapeStatus]:
        """Of the readings of metrics."""
        return self.metrics.statuses() if self.metrics is not None else []

    async def close(self) -> None:
        await asyncio.gather(*(collector.close() for collector in self.collectors))


def make_collecting(
    options: RunOptions, pipeline: Pipeline, fleet: Fleet, *, clock: Callable[[], float], rng: random.Random
) -> Collecting:
    """Raises ConfigError: an engine that cannot be read, a certificate or a token that cannot be used."""
    layer: DataLayer = pipeline.settings["data_layer"]
    collectors: list[Collector] = []
    types: list[str] = []
    metrics: Collector | None = None
    for spec in layer.sources:
        source = pipeline.plugins[spec.source]
        if not isinstance(source, DataSource) or not spec.extractors:
            continue
        engines = _engines(options, pipeline, spec) if metrics is None else None
        extractors = [p for name in spec.extractors if isinstance(p := pipeline.plugins[name], Extractor)]
        if engines is None and not extractors:
            continue
        collector = _collector(options, source, engines, extractors, fleet, clock=clock, rng=rng)
        collectors.append(collector)
        types.append(source.type)
        if engines is not None:
            metrics = collector
    if metrics is not None:
        _warn_of_staleness(metrics.longest_interval_s, pipeline)
    return Collecting(tuple(collectors), tuple(types), metrics)


def _collector(
    options: RunOptions,
    source: DataSource,
    engines: Engines | None,
    extractors: list[Extractor],
    fleet: Fleet,
    *,
    clock: Callable[[], float],
    rng: random.Random,
) -> Collector:
    fetch = source.fetch()
    stale_after_s = options.metrics_staleness_threshold_s if options.stale_metrics == "unknown" else None
    return Collector(
        fleet,
        engines,
        clock=clock,
        source=_metrics_source(options, source, fetch),
        interval_s=max(options.refresh_metrics_interval_s, fetch.interval_s),
        idle_interval_s=options.idle_metrics_interval_s if engines is not None else 0.0,
        stale_after_s=stale_after_s,
        extractors=extractors,
        max_page_bytes=fetch.max_body_bytes,
        what="metrics" if engines is not None else f"what {source.name} fetches",
        rng=rng,
    )


def _engines(options: RunOptions, pipeline: Pipeline, spec: SourceSpec) -> Engines | None:
    """None where the source has no extractor for the load of model servers."""
    extractor = next((p for n in spec.extractors if (p := pipeline.plugins[n]).type == METRICS_EXTRACTOR), None)
    if extractor is None:
        return None
    params = extractor.params
    configs = [msgspec.convert(msgspec.to_builtins(c), EngineConfig) for c in params.engine_configs]
    engines = load_engines(configs, default_engine=params.default_engine, label_key=params.engine_label_key)
    specs = options.metric_specs
    overridden = override_engine(
        engines.default,
        queued=specs.waiting_requests,
        running=specs.running_requests,
        kv_usage=specs.kv_cache_usage,
        lora=specs.lora_info,
        cache_info=specs.cache_info,
    )
    return engines.with_default(overridden) if overridden != engines.default else engines


def _metrics_source(options: RunOptions, plugin: DataSource, fetch: Fetch) -> MetricsSource:
    """The old flags stand for a metrics-data-source without parameters."""
    if plugin.type == METRICS_SOURCE and _is_default(plugin):
        return MetricsSource(
            scheme="https" if options.model_server_metrics_scheme == "https" else "http",
            path=_path(options.model_server_metrics_path),
            port=options.model_server_metrics_port or None,
            insecure_skip_verify=options.model_server_metrics_insecure_skip_verify,
        )
    fields = {name: getattr(fetch, name) for name in MetricsSource.__struct_fields__}
    if plugin.type == METRICS_SOURCE:
        fields |= {"path": _path(fetch.path), "accept": MetricsSource().accept}
    return MetricsSource(**fields)


def _path(path: str) -> str | None:
    """None for the usual one: an engine may have its page elsewhere."""
    return path if path != METRICS_PATH else None


def _is_default(plugin: Plugin) -> bool:
    return bool(plugin.params == type(plugin).Params())


def _warn_of_staleness(interval_s: float, pipeline: Pipeline) -> None:
    """A detector that takes idle endpoints for full ones would refuse requests that they could serve."""
    for plugin in pipeline.plugins.values():
        stale_s = getattr(plugin, "stale_after_s", None)
        if isinstance(stale_s, float) and interval_s >= stale_s:
            _log.warning(
                "endpoints may be read only every %g s (--refresh-metrics-interval, --idle-metrics-interval, interval of"
                " the data source), and %s takes metrics older than %g s for a full endpoint: raise its"
                " metricsStalenessThreshold",
                interval_s,
                plugin.name,
                stale_s,
            )
