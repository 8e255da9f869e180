"""The recorder: what happens to requests and plugins becomes numbers. Which metrics there are is in `catalogue.py`.

Everything is called from the event loop's thread. The children that one kind of request needs are looked up once and kept
together, so that a request costs one dictionary access per call and a few additions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from epp.api import Code, Endpoint, Fleet, Plugin, Request, Response, Termination
from epp.observability.catalogue import Catalogue
from epp.observability.exposition import Page
from epp.observability.kubernetes import Followed, kubernetes_metrics
from epp.observability.plugin_metrics import PluginMetrics
from epp.observability.pool import (
    PoolMetrics,
    ScrapeCounts,
    SourceCounts,
    leadership_metrics,
    scrape_metrics,
    source_metrics,
)
from epp.observability.series import OTHER, Counter, Names
from epp.scheduling.observer import TIMED_EVERY

_log: Final = logging.getLogger(__name__)

# Globals: an enum's class is slow to read from.
_COMPLETE: Final = Termination.COMPLETE
_ERROR: Final = Termination.ERROR

# Names come from clients; each makes series that are kept for good. Same limits as the Go EPP.
MODEL_NAMES: Final = 1000
FAIRNESS_IDS: Final = 1000
# The limits above allow 10^6 combinations, some 10 KB each; beyond this many the fairness id is no longer told apart.
COMBINATIONS: Final = 10_000
# A plugin that fails for every request must not fill the disk with tracebacks.
FAILURE_LOG_INTERVAL_S: Final = 60.0

_Key = tuple[str, str, str, int]


class _RequestSeries:
    """The children for one combination of model, target model, fairness id and priority."""

    __slots__ = (
        "cached_tokens",
        "duration_s",
        "input_tokens",
        "itl_s",
        "labels",
        "ntpot_s",
        "output_tokens",
        "request_size_bytes",
        "response_size_bytes",
        "running",
        "total",
        "tpot_s",
        "ttft_s",
        "ttft_streaming_s",
    )

    def __init__(self, catalogue: Catalogue, key: _Key) -> None:
        self.labels = labels = (key[0], key[1], key[2], str(key[3]))
        self.total = catalogue.request_total.labels(*labels)
        self.running = catalogue.running.labels(*labels)
        self.duration_s = catalogue.duration_s.labels(*labels)
        self.ttft_s = catalogue.ttft_s.labels(*labels, "false")
        self.ttft_streaming_s = catalogue.ttft_s.labels(*labels, "true")
        self.tpot_s = catalogue.tpot_s.labels(*labels)
        self.itl_s = catalogue.itl_s.labels(*labels)
        self.ntpot_s = catalogue.ntpot_s.labels(*labels)
        self.request_size_bytes = catalogue.request_size_bytes.labels(*labels)
        self.response_size_bytes = catalogue.response_size_bytes.labels(*labels)
        self.input_tokens = catalogue.input_tokens.labels(*labels)
        self.output_tokens = catalogue.output_tokens.labels(*labels)
        self.cached_tokens = catalogue.cached_tokens.labels(*labels)


def _attempt(target: Endpoint, model: str) -> tuple[str, ...]:
    """Label values of a successful attempt."""
    return "success", model, target.pod_name, target.name, target.namespace, str(target.port)


class Recorder:
    """Implements `epp.scheduling.observer.Observer`, and listens to endpoints that go. `clock` is the one that stamps requests
    and responses."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        stream_metrics: bool = False,
        commit: str = "",
        build_ref: str = "",
        model_limit: int = MODEL_NAMES,
        fairness_id_limit: int = FAIRNESS_IDS,
        combination_limit: int = COMBINATIONS,
        process: bool = True,
    ) -> None:
        self._clock = clock
        self._combination_limit = combination_limit
        self._models = Names(model_limit)
        self._fairness_ids = Names(fairness_id_limit)
        self._catalogue = Catalogue(models=self._models, fairness_ids=self._fairness_ids, stream_metrics=stream_metrics)
        self._page = Page(process=process)
        self._page.families.extend(self._catalogue)
        self._page.add_source(self._config_info)
        self._config_hash = ""
        self._requests: dict[_Key, _RequestSeries] = {}
        self._successes: dict[tuple[Endpoint, str], Counter] = {}
        self._attempted: dict[Endpoint, set[str]] = {}  # for which models
        self._failures: dict[tuple[str, str, type[Exception]], _Quiet] = {}
        self._unexpected = self._catalogue.unexpected_messages.labels()
        self._bodies_unread = self._catalogue.response_bodies.labels("false")
        self._bodies_read = self._catalogue.response_bodies.labels("true")
        self._request_handling_s = self._catalogue.request_handling_s.labels()
        self._response_handling_s = self._catalogue.response_handling_s.labels()
        self._scheduling_s = self._catalogue.scheduler_duration_s.labels()
        self._streams_open = self._catalogue.streams_open.labels()
        self._stream_s = self._catalogue.stream_duration_s.labels()
        for result in ("applied", "unchanged", "refused"):
            self._catalogue.config_reloads.labels(result)
        self._catalogue.info.labels(commit, build_ref).set(1)
        folds = {"model_name": self._models, "target_model_name": self._models, "fairness_id": self._fairness_ids}
        self.plugin_metrics = PluginMetrics(self._page.families, folds)

    # --- plugins ---------------------------------------------------------------------------------------------------------

    def timer(self, point: str, plugin: Plugin) -> Callable[[float], None]:
        """A function that takes one call's duration in seconds, which stands for TIMED_EVERY calls."""
        child = self._catalogue.plugin_duration_s.labels(point, plugin.type, plugin.name)
        return partial(child.observe_many, count=TIMED_EVERY)

    def plugin_failed(self, point: str, plugin: Plugin, error: Exception) -> None:
        """Counts the failure, and logs it with its traceback at most once a minute for each plugin and type of error."""
        self._catalogue.plugin_errors.labels(point, plugin.type, plugin.name).inc()
        quiet = self._failures.setdefault((point, plugin.name, type(error)), _Quiet())
        unlogged = quiet.due(self._clock())
        if unlogged is None:
            return
        fields = {"extension_point": point, "plugin_type": plugin.type, "plugin": plugin.name, "not_logged": unlogged}
        _log.error("plugin failed", exc_info=error, extra={"fields": fields})

    # --- requests --------------------------------------------------------------------------------------------------------

    def request_routed(self, request: Request) -> None:
        """The request has a destination."""
        series = self._series(request)
        series.total.inc()
        series.request_size_bytes.observe(request.size_bytes)
        self._request_handling_s.observe(self._clock() - request.received_s)

    def request_refused(self, request: Request | None, code: Code) -> None:
        """The client was told `code`. Without a request it was refused before anything was known about it."""
        labels = ("", "", "", "")
        if request is not None:
            labels = (request.incoming_model, request.model, request.fairness_id, str(request.priority))
        self._catalogue.request_error_total.labels(*labels, code.value).inc()

    def scheduled(self, request: Request, duration_s: float, target: Endpoint | None) -> None:
        """The scheduler ran for `duration_s` and chose `target`, or found nothing."""
        self._scheduling_s.observe(duration_s)
        if target is None:
            self._catalogue.scheduler_attempts.labels("failure", request.model, "", "", "", "").inc()
            return
        key = (target, request.model)
        child = self._successes.get(key)
        if child is None:
            child = self._success(key)
        child.value += 1

    def _success(self, key: tuple[Endpoint, str]) -> Counter:
        target, model = key
        child = self._catalogue.scheduler_attempts.labels(*_attempt(target, model))
        self._attempted.setdefault(target, set()).add(model)
        # Endpoints and clients' model names come and go: what is kept is bounded.
        if len(self._successes) >= COMBINATIONS:
            self._successes.clear()
        self._successes[key] = child
        return child

    def endpoint_added(self, endpoint: Endpoint) -> None:
        """Nothing is counted of it yet."""

    def endpoint_relabelled(self, endpoint: Endpoint) -> None:
        """Its labels are not shown."""

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """What was counted of it goes along: names of Pods do not come again, and their series would add up for ever."""
        for model in self._attempted.pop(endpoint, ()):
            self._catalogue.scheduler_attempts.drop(*_attempt(endpoint, model))
            self._successes.pop((endpoint, model), None)

    def keep_models(self, names: Iterable[str]) -> None:
        """Model names from the configuration, which are told apart whatever clients ask for."""
        self._models.keep(names)

    def model_rewritten(self, rule: str, model: str, target: str) -> None:
        """`rule` replaced the model name that the client sent."""
        self._models.keep((target,))
        self._catalogue.model_rewrites.labels(rule, model, target).inc()

    def request_started(self, request: Request) -> None:
        """The request is on its way to its endpoint."""
        series = self._series(request)
        # Kept with the request: it must end on the very gauge on which it began.
        request.state[self] = series
        series.running.inc()

    def pieces_came(self, request: Request, gaps_s: Sequence[float]) -> None:
        """Pieces of a streamed response: how long each came after the one before it."""
        series: _RequestSeries | None = request.state.get(self)
        if series is not None:
            series.itl_s.observe_all(gaps_s)

    def response_handled(self, duration_s: float, *, count: int = 1) -> None:
        """The picker's own work on a response took so long, as that on `count` of them."""
        self._response_handling_s.observe_many(duration_s, count=count)

    def request_ended(self, request: Request, response: Response) -> None:
        """The request is over, however it ended. Does nothing unless it was started, and the second time."""
        series: _RequestSeries | None = request.state.pop(self, None)
        if series is None:
            return
        series.running.dec()
        succeeded = 200 <= response.status < 400
        if response.status and not succeeded:
            self._catalogue.request_error_total.labels(*series.labels, Code.MODEL_SERVER_ERROR.value).inc()
        elif response.termination is _ERROR:
            self._catalogue.request_error_total.labels(*series.labels, Code.UNKNOWN.value).inc()
        if response.termination is not _COMPLETE:
            return  # a cut response says nothing about how long responses are and take
        ended_s = response.ended_s if response.ended_s is not None else self._clock()
        duration_s = ended_s - request.received_s
        if duration_s > 0:
            series.duration_s.observe(duration_s)
        if response.body_seen:
            series.response_size_bytes.observe(response.size_bytes)
        if succeeded:
            self._record_tokens(series, request, response, duration_s)

    def _record_tokens(self, series: _RequestSeries, request: Request, response: Response, duration_s: float) -> None:
        first_s = response.first_chunk_s
        if not response.streaming:
            series.ttft_s.observe(duration_s)
        elif first_s is not None:
            series.ttft_streaming_s.observe(first_s - request.received_s)
        usage = response.usage
        if usage is None:
            return
        if usage.prompt_tokens:
            series.input_tokens.observe(usage.prompt_tokens)
        if usage.cached_tokens is not None:
            series.cached_tokens.observe(usage.cached_tokens)
        output = usage.completion_tokens
        if not output or output < 0:
            return
        series.output_tokens.observe(output)
        if duration_s > 0:
            series.ntpot_s.observe(duration_s / output)
        if response.streaming and first_s is not None and output > 1:
            series.tpot_s.observe((request.received_s + duration_s - first_s) / (output - 1))

    def _series(self, request: Request) -> _RequestSeries:
        key = (request.incoming_model, request.model, request.fairness_id, request.priority)
        series = self._requests.get(key)
        return series if series is not None else self._folded(key)

    def _folded(self, key: _Key) -> _RequestSeries:
        model, target, fairness_id, priority = key
        models = self._models
        key = (models.fold(model), models.fold(target), self._fairness_ids.fold(fairness_id), priority)
        if len(self._requests) >= self._combination_limit and key not in self._requests:
            key = (key[0], key[1], OTHER, priority)
        series = self._requests.get(key)
        if series is None:
            series = self._requests[key] = _RequestSeries(self._catalogue, key)
        return series

    # --- ext_proc --------------------------------------------------------------------------------------------------------

    def message_unexpected(self, count: int = 1) -> None:
        """The proxy sent `count` messages that have no place where they came."""
        self._unexpected.inc(count)

    def response_body_sent(self, read: bool) -> None:
        """The proxy sends the body of a response, which something in the configuration reads, or nothing does."""
        (self._bodies_read if read else self._bodies_unread).inc()

    def stream_opened(self) -> None:
        self._streams_open.inc()

    def stream_closed(self, code: str, duration_s: float) -> None:
        """An ext_proc stream ended with gRPC status `code` (`OK`, `Canceled`, ...: Go's names) after `duration_s`."""
        self._streams_open.dec()
        self._stream_s.observe(duration_s)
        self._catalogue.streams_closed.labels(code).inc()

    # --- the rest of the page --------------------------------------------------------------------------------------------

    def watch_fleet(self, fleet: Fleet, clock: Callable[[], float], staleness_s: float, pool_name: str) -> None:
        """Show the fleet's numbers. `clock` is the one that stamps the column METRICS_UPDATED_S. Call it once."""
        self._page.add_source(PoolMetrics(fleet, clock, staleness_s, pool_name))

    def watch_scrapes(self, counts: ScrapeCounts) -> None:
        """Show how readings of metrics pages went. Call it once."""
        self._page.add_source(lambda: scrape_metrics(counts))

    def watch_sources(self, counts: SourceCounts) -> None:
        """Show how readings of data sources failed. Call it once."""
        self._page.add_source(lambda: source_metrics(counts))

    def watch_kubernetes(self, statuses: Callable[[], Iterable[Followed]]) -> None:
        """Show how the following of Kubernetes objects fares. Call it once."""
        self._page.add_source(lambda: kubernetes_metrics(statuses))

    def watch_leadership(self, lease: str, leads: Callable[[], bool]) -> None:
        """Show whether this replica leads. Call it once."""
        self._page.add_source(lambda: leadership_metrics(lease, leads))

    def config_loaded(self, config_hash: str) -> None:
        """This is the configuration in force."""
        self._config_hash = config_hash

    def config_reloaded(self, result: str) -> None:
        """The configuration file has changed: `applied`, `unchanged` (it means the same) or `refused`."""
        self._catalogue.config_reloads.labels(result).inc()

    def _config_info(self) -> Iterator[Metric]:
        if self._config_hash:
            info = GaugeMetricFamily("llm_epp_config_info", "The configuration in force.", labels=("hash",))
            info.add_metric((self._config_hash,), 1)
            yield info

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics page and its content type."""
        return self._page.render(accept)

    def parts(self, accept: str = "") -> tuple[Iterator[bytes], str]:
        """The metrics page in pieces: a long page need not hold up requests."""
        return self._page.parts(accept)


class _Quiet:
    """When one kind of failure was last logged, and how many were not since."""

    __slots__ = ("_last_s", "_unlogged")

    def __init__(self) -> None:
        self._last_s = float("-inf")
        self._unlogged = 0

    def due(self, now_s: float) -> int | None:
        """How many went unlogged since the last time when it is time to log again; None when it is not."""
        if now_s - self._last_s < FAILURE_LOG_INTERVAL_S:
            self._unlogged += 1
            return None
        unlogged, self._unlogged, self._last_s = self._unlogged, 0, now_s
        return unlogged
