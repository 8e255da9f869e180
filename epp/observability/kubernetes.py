"""Metrics of what is followed in Kubernetes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class Followed(Protocol):
    """How the following of one kind fares (`epp.discovery.kubernetes.discovery.WatchStatus`)."""

    @property
    def kind(self) -> str: ...

    @property
    def age_s(self) -> float: ...

    @property
    def objects(self) -> int: ...

    @property
    def lists(self) -> int: ...

    @property
    def events(self) -> int: ...

    @property
    def errors(self) -> Mapping[str, int]: ...


def kubernetes_metrics(statuses: Callable[[], Iterable[Followed]]) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "llm_epp_kubernetes_age_seconds",
        "How old what is known of these objects may be: 0 while changes are heard of, +Inf before the first list.",
        labels=("kind",),
    )
    objects = GaugeMetricFamily("llm_epp_kubernetes_objects", "Objects that are known.", labels=("kind",))
    lists = CounterMetricFamily(
        "llm_epp_kubernetes_lists_total", "Times that all objects were listed.", labels=("kind",)
    )
    events = CounterMetricFamily("llm_epp_kubernetes_events_total", "Events of objects.", labels=("kind",))
    errors = CounterMetricFamily(
        "llm_epp_kubernetes_errors_total",
        "What went wrong with lists, watches and objects, by reason.",
        labels=("kind", "reason"),
    )
    for status in statuses():
        age.add_metric((status.kind,), status.age_s)
        objects.add_metric((status.kind,), status.objects)
        lists.add_metric((status.kind,), status.lists)
        events.add_metric((status.kind,), status.events)
        for reason, count in status.errors.items():
            errors.add_metric((status.kind, reason), count)
    yield from (age, objects, lists, events, errors)
