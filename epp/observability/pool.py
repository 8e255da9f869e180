"""Metrics of the pool, worked out from the fleet's columns each time the page is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from epp.api import (
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Fleet,
    Floats,
)

ScrapeCounts = Callable[[], Iterable[tuple[str, str, float]]]
"""(endpoint name, result, how often so far) for each endpoint and result."""

SourceCounts = Callable[[], Iterable[tuple[str, int, Mapping[str, int]]]]
"""For each data source its type, readings that failed, and by extractor type what could not be read."""

_AVERAGED: Final = (
    (KV_CACHE_USAGE, "kv_cache_utilization", "kv cache utilization for an inference server pool"),
    (WAITING_REQUESTS, "queue_size", "number of requests pending in the model server queue"),
    (RUNNING_REQUESTS, "running_requests", "number of running requests across model servers in the pool"),
)


class PoolMetrics:
    """Averages count endpoints whose metrics are younger than `staleness_s` only; 0 when there are none."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float], staleness_s: float, pool_name: str) -> None:
        self._fleet = fleet
        self._clock = clock
        self._staleness_s = staleness_s
        self._pool = (pool_name,)

    def __call__(self) -> Iterator[Metric]:
        everyone = self._fleet.candidates()
        age_s: Floats = self._clock() - everyone.column(METRICS_UPDATED_S)
        fresh = everyone.keep(age_s < self._staleness_s)
        for column, name, text in _AVERAGED:
            values = fresh.column(column)
            average = float(values.mean()) if len(values) else 0.0
            help_text = f"[ALPHA] The average {text}."
            yield self._gauge(f"inference_pool_average_{name}", help_text, average)
            yield self._gauge(f"llm_d_epp_average_{name}", help_text, average)
            deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            yield self._gauge(f"llm_d_epp_std_dev_{name}", f"[ALPHA] The standard deviation {text}.", deviation)
        ready = "[ALPHA] The number of ready {} in the inference server pool."
        yield self._gauge("inference_pool_ready_pods", ready.format("pods"), len(fresh))
        yield self._gauge("llm_d_epp_ready_endpoints", ready.format("endpoints"), len(fresh))

        names = [e.name for e in everyone]
        queues = everyone.column(WAITING_REQUESTS)
        waiting = "[ALPHA] The total number of requests pending in the model server queue for each underlying {}."
        for metric, label, noun in (
            ("inference_pool_per_pod_queue_size", "model_server_pod", "pod"),
            ("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint", "endpoint"),
        ):
            gauge = GaugeMetricFamily(metric, waiting.format(noun), labels=("name", label))
            for endpoint, queue in zip(names, queues, strict=True):
                gauge.add_metric((*self._pool, endpoint), float(queue))
            yield gauge
        yield _by_endpoint(
            "llm_epp_endpoint_metrics_age_seconds",
            "Age of an endpoint's metrics; +Inf before the first, and when too old to be used.",
            names,
            age_s,
        )
        yield _by_endpoint(
            "llm_epp_endpoint_silent",
            "1 for an endpoint that does not answer at all and is left out of picks, else 0.",
            names,
            np.array([float(self._fleet.is_silent(e)) for e in everyone]),
        )
        yield _by_endpoint(
            "llm_epp_in_flight_requests",
            "Requests that were sent to an endpoint and have not ended.",
            names,
            everyone.column(IN_FLIGHT_REQUESTS),
        )

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=("name",))
        gauge.add_metric(self._pool, value)
        return gauge


def scrape_metrics(counts: ScrapeCounts) -> Iterator[Metric]:
    metric = CounterMetricFamily(
        "llm_epp_scrapes_total", "Readings of an endpoint's metrics page, by result.", labels=("endpoint", "result")
    )
    for endpoint, result, count in counts():
        metric.add_metric((endpoint, result), count)
    yield metric


def source_metrics(counts: SourceCounts) -> Iterator[Metric]:
    polls = CounterMetricFamily(
        "llm_d_epp_datalayer_poll_errors_total", "Readings of a data source that failed.", labels=("source_type",)
    )
    unreadable = CounterMetricFamily(
        "llm_d_epp_datalayer_extract_errors_total",
        "Answers of a data source that an extractor could not read.",
        labels=("source_type", "extractor_type"),
    )
    failed: Counter[str] = Counter()
    not_read: Counter[tuple[str, str]] = Counter()
    for source, failures, extractors in counts():
        failed[source] += failures
        for extractor, times in extractors.items():
            not_read[source, extractor] += times
    for source, failures in failed.items():
        polls.add_metric((source,), failures)
    for labels, times in not_read.items():
        unreadable.add_metric(labels, times)
    yield polls
    yield unreadable


def leadership_metrics(lease: str, leads: Callable[[], bool]) -> Iterator[Metric]:
    metric = GaugeMetricFamily(
        "leader_election_master_status",
        "1 while this replica holds the lease, else 0. With `--ha-enable-leader-election`.",
        labels=("name",),
    )
    metric.add_metric((lease,), leads())
    yield metric


def _by_endpoint(name: str, text: str, endpoints: list[str], values: Floats) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=("endpoint",))
    for endpoint, value in zip(endpoints, values, strict=True):
        gauge.add_metric((endpoint,), float(value))
    return gauge
