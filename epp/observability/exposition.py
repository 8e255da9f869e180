"""From series to the metrics page. The text format is prometheus_client's job; this file only hands it the numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import accumulate, islice
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from epp.observability.series import Child, Counter, Family, Gauge, Histogram, View

_log: Final = logging.getLogger(__name__)
_END: Final = b"# EOF\n"  # ends an OpenMetrics page (OpenMetrics 1.0, "overall structure")

# A line costs the library some 7 us and a histogram has up to 40: a piece holds up requests for 2 to 3 ms.
SERIES_PER_PIECE: Final = 10

Source = Callable[[], Iterable[Metric]]
_Series = list[tuple[tuple[str, ...], list[Child]]]


def le(bound: float) -> str:
    """A bound as Go prints it (strconv 'g', shortest): `0.005`, `1`, `1.048576e+06`."""
    if bound == 0 or 1e-4 <= abs(bound) < 1e6:
        return repr(float(bound)).removesuffix(".0")
    mantissa, _, exponent = f"{Decimal(repr(float(bound))).normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"


def expose(family: Family[Any], view: View) -> Iterator[Metric]:
    """`family` under one of its views, in pieces of a few series, each with the family's whole head."""
    places = [family.label_names.index(name) for name in view.labels]
    needed = family.label_names.index(view.needs) if view.needs else None
    groups: dict[tuple[str, ...], list[Child]] = {}
    for values, child in family.children.items():
        if needed is None or values[needed]:
            groups.setdefault(tuple(values[p] for p in places), []).append(child)
    series = iter(groups.items())
    while piece := list(islice(series, SERIES_PER_PIECE)):
        yield _histogram(family, view, piece) if family.kind == "histogram" else _number(family, view, piece)


def _number(family: Family[Any], view: View, series: _Series) -> Metric:
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        metric = CounterMetricFamily(view.name, view.documentation, labels=view.labels)
    else:
        metric = GaugeMetricFamily(view.name, view.documentation, labels=view.labels)
    for values, children in series:
        metric.add_metric(values, sum(c.value for c in children if isinstance(c, Counter | Gauge)))
    return metric


def _histogram(family: Family[Any], view: View, series: _Series) -> Metric:
    bounds = view.bounds or family.bounds
    shown = [(le(b), family.bounds.index(b)) for b in bounds]
    metric = HistogramMetricFamily(view.name, view.documentation, labels=view.labels)
    for values, children in series:
        histograms = [c for c in children if isinstance(c, Histogram)]
        up_to = list(accumulate(sum(column) for column in zip(*(h.counts for h in histograms), strict=True)))
        buckets: list[Any] = [(text, up_to[place]) for text, place in shown]
        buckets.append(("+Inf", up_to[-1]))
        metric.add_metric(values, buckets, sum(h.total for h in histograms))
    return metric


class Page:
    """Everything on the metrics page, in order: families, computed metrics, then the process's own."""

    def __init__(self, *, process: bool = True) -> None:
        self.families: list[Family[Any]] = []
        self._sources: list[Source] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self))
        if process:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    def add_source(self, source: Source) -> None:
        """Metrics that are computed each time the page is read."""
        self._sources.append(source)

    def collect(self) -> Iterator[Metric]:
        for family in list(self.families):
            for view in family.views:
                yield from expose(family, view)
        for source in self._sources:
            yield from source()

    def parts(self, accept: str) -> tuple[Iterator[bytes], str]:
        """The page in pieces, so that the caller may do other work in between, and its content type."""
        encode, content_type = choose_encoder(accept)
        return self._encoded(encode, content_type.startswith("application/openmetrics-text")), content_type

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics when `accept` asks for it, else the classic text format."""
        parts, content_type = self.parts(accept)
        return b"".join(parts), content_type

    def _encoded(self, encode: Callable[[Collector], bytes], openmetrics: bool) -> Iterator[bytes]:
        shown = ""
        for metric in self._registry.collect():
            try:
                text = encode(_One(metric)).removesuffix(_END)
                if metric.name == shown:
                    head = Metric(metric.name, metric.documentation, metric.type)
                    text = text.removeprefix(encode(_One(head)).removesuffix(_END))
            except Exception:
                _log.exception("metric %s cannot be shown", metric.name)
                continue
            shown = metric.name
            yield text
        if openmetrics:
            yield _END


class _Families(Collector):
    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        return self._page.collect()


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]
