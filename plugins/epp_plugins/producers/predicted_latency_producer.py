"""predicted-latency-producer: how long a request would take on every candidate, learnt from how long others took."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Annotated, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from epp.api import (
    ENCODER_MATCH,
    LATENCY_PREDICTION,
    LATENCY_RECORD,
    NO_SLO,
    PREFILL_BACKLOG,
    PREFIX_MATCH,
    Background,
    Candidates,
    DataProducer,
    Endpoint,
    EndpointListener,
    Exporter,
    Floats,
    Handle,
    Job,
    LatencyPrediction,
    LatencyRecord,
    PreRequest,
    Request,
    Response,
    ResponseComplete,
    ResponseEnding,
    ResponseReceived,
    ResponseStreaming,
    SchedulingResult,
    Slo,
    StateDumper,
    StateKeeper,
    data_key,
    deprecated,
)
from epp_plugins.latency.allowance import Allowance
from epp_plugins.latency.course import NO_BODY, Course, lesson
from epp_plugins.latency.learner import Learner
from epp_plugins.latency.ledger import Charge, Ledger
from epp_plugins.latency.metrics import TRAINING_ONLY, UNAVAILABLE, UNTRAINED, LatencyMetrics
from epp_plugins.latency.rows import Rows, uncached_tokens
from epp_plugins.latency.running_slos import RunningSlos
from epp_plugins.latency.slo import SloReader
from epp_plugins.latency_servers.prediction_client import NoPrediction, PredictionClient
from epp_plugins.latency_servers.servers import prediction_client, training_client
from epp_plugins.roles import prefill_endpoint
from epp_predictor.features import POD_TYPES
from epp_predictor.predictor import Decision, Prediction

_POLL_S: Final = 1.0
_STALE_S: Final = 0.02
"""A request that waited longer than this between prediction and pick is looked at again."""
_PREFILL: Final = "prefill"  # role
_LONGEST_S: Final = 60.0
_MOST_ROWS: Final = 10_000  # that servers take at once
_LEVELS: Final = 6  # of both targets the median and the ends of the interval
_BODILESS: Final = 100  # responses without bodies, and none with one, before somebody is told


class _Asked(msgspec.Struct):
    """What was made of a request before its destination was known."""

    features: Floats
    candidates: Candidates
    prediction: Prediction | None  # None: not yet
    slo: Slo
    made_s: float
    took_s: float
    is_from_server: bool = False


class PredictedLatencyProducer(
    DataProducer,
    PreRequest,
    ResponseReceived,
    ResponseStreaming,
    ResponseEnding,
    ResponseComplete,
    EndpointListener,
    Background,
    StateKeeper,
    StateDumper,
    Exporter,
):
    """Publishes LatencyPrediction: medians and 90 % intervals of time to first token (TTFT) and per output token (TPOT).

    TTFT runs from the dispatch to the first event that brings generated content, of a streamed 2xx answer; TPOT is the rest
    of the stream by the tokens that the server reports, else by events, of each choice where there are several. Both are
    learnt from every such answer whose body the proxy sends, in a process of its own; answers in one piece and errors teach
    nothing, requests that were given up that it would have taken longer. At most `maxLearntPerSec` requests a second teach;
    those above it are only compared with their predictions. Before enough was learnt nothing is published. An SLO
    (`x-llm-d-slo-ttft-ms`, `x-llm-d-slo-tpot-ms`) that a request lacks, or that is no positive number, is infinite. The
    budget for TPOT is the tightest SLO of the request and of those that run on the endpoint, times `sloBufferFactor`;
    endpoints with the role prefill have none.

    With `predictionServerUrl` such a server (`epp-predictor serve`, or llm-d's) is asked instead, within
    `predictionDeadlineMs`; its answers are calibrated here, and intervals are unknown until twenty requests have shown how far
    off it is. Requests of one `coalesceWindowMs` share a call. A server that fails is left alone for a second, then two, up to
    thirty, and nothing is predicted. `trainingServerUrl` gets the samples, up to `maxSampleSize` every `flushIntervalSec`.

    `predictInProduce: false` learns only. `endpointRoleLabel` names the label whose value `prefill` or `decode` is a feature;
    where a profile `prefill` picks an endpoint of its own, TTFT is learnt for that. `useEncoderCacheFeatures` adds what
    caches of encoded media hold. `streamingMode`, `contextTTL`, `inFlightLoadProducerName` and the deprecated `samplingMean`
    and `maxDecodeTokenSamplesForPrediction` are accepted and have no effect: each answer says whether it is streamed, what is
    kept of a request goes with it, and requests are counted here. Differs from the Go EPP's producer, which asks a server,
    learns the end of an answer as its first token without `streamingMode`, learns from errors, counts pieces as tokens, and
    takes an absent SLO for one of 0.
    """

    type = "predicted-latency-producer"
    content_type = "text/csv; charset=utf-8"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        slo_buffer_factor: Annotated[float, msgspec.Meta(gt=0)] = 1.0
        context_ttl: int = msgspec.field(default=300_000_000_000, name="contextTTL")  # nanoseconds
        streaming_mode: bool = False
        endpoint_role_label: str = ""
        predict_in_produce: bool = True
        use_encoder_cache_features: bool = False
        prefix_match_info_producer_name: str = ""
        in_flight_load_producer_name: str = ""
        encoder_cache_match_info_producer_name: str = ""
        prediction_server_url: str = ""  # several with commas between them
        training_server_url: str = ""
        prediction_deadline_ms: Annotated[float, msgspec.Meta(gt=0)] = 20.0
        coalesce_window_ms: Annotated[float, msgspec.Meta(ge=0)] = 1.0
        max_coalesced_rows: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: as many as servers take
        max_concurrent_dispatches: Annotated[int, msgspec.Meta(gt=0)] = 36
        max_sample_size: Annotated[int, msgspec.Meta(gt=0)] = 1000
        flush_interval_sec: Annotated[float, msgspec.Meta(gt=0)] = 1.0
        http_timeout_sec: Annotated[float, msgspec.Meta(gt=0)] = 10.0
        max_learnt_per_sec: Annotated[float, msgspec.Meta(ge=1)] = 200.0
        sampling_mean: Annotated[float, deprecated("it has no effect")] = 1000.0
        max_decode_token_samples_for_prediction: Annotated[int, deprecated("it has no effect")] = 0

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._clock = handle.clock
        self._key = data_key(LATENCY_PREDICTION, handle.name)
        self._record_key = data_key(LATENCY_RECORD, handle.name)
        self._prefix_key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        self._backlog_key = data_key(PREFILL_BACKLOG)
        self._encoder_key = (
            data_key(ENCODER_MATCH, params.encoder_cache_match_info_producer_name)
            if params.use_encoder_cache_features
            else ""
        )
        self._predictions = prediction_client(
            handle,
            params.prediction_server_url,
            window_ms=params.coalesce_window_ms,
            deadline_ms=params.prediction_deadline_ms,
            most_rows=params.max_coalesced_rows or _MOST_ROWS,
            most_calls=params.max_concurrent_dispatches,
        )
        self._samples = training_client(
            handle,
            params.training_server_url,
            interval_s=params.flush_interval_sec,
            most=params.max_sample_size,
            timeout_s=params.http_timeout_sec,
        )
        self._learner = Learner(handle)
        self._allowance = Allowance(params.max_learnt_per_sec)
        self._slos = SloReader(handle)
        self._metrics = LatencyMetrics(handle, self.type)
        self._learner.also = None if self._samples is None else self._samples.add
        self._use(Ledger(), RunningSlos())
        self._budgets: Floats = np.full(0, math.inf)
        self._unknown: Floats = np.full((_LEVELS, 0), math.nan)
        self._placed: Candidates | None = None
        self._places: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        """Of `_placed`, in a flat matrix like `_unknown`."""
        self._polling: Job | None = None
        self._given_away = False  # another plugin goes on with the learner
        self._bodiless = 0  # responses without bodies before the first one with; -1: there was one, or it was told

    def _use(self, ledger: Ledger, running: RunningSlos) -> None:
        self._ledger = ledger
        self._running = running
        self._rows = Rows(
            self.handle.fleet,
            ledger,
            prefix_key=self._prefix_key,
            backlog_key=self._backlog_key,
            encoder_key=self._encoder_key,
        )
        self._fit()

    def produces(self) -> Sequence[str]:
        return (self._key, self._record_key)

    def consumes(self) -> Sequence[str]:
        return (self._prefix_key, self._encoder_key) if self._encoder_key else (self._prefix_key,)

    def consumes_if_published(self) -> Sequence[str]:
        return (self._backlog_key,)

    # --- before the pick -----------------------------------------------------------------------------------------------------

    def produce(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
        now_s = self._clock()
        before = perf_counter()
        self._ledger.catch_up(now_s)
        features = self._rows.make(request, candidates, now_s)
        asked = _Asked(features, candidates, None, self._slos.read(request), now_s, 0.0)
        request.state[self] = asked
        if not self.params.predict_in_produce:
            self._metrics.fell_back(TRAINING_ONLY)
            return None
        if self._predictions is not None and self._predictions.is_available:
            return self._ask(self._predictions, request, asked, before)
        if self._predictions is not None:
            self._metrics.fell_back(UNAVAILABLE)
        self._publish(request, asked, self._learner.predict(features, candidates.rows), before)
        return None

    async def _ask(self, servers: PredictionClient, request: Request, asked: _Asked, before: float) -> None:
        """What servers say, calibrated here; where they say nothing in time, this process's own model, if it has one."""
        features, rows = asked.features, asked.candidates.rows
        try:
            prediction = self._learner.calibrate(await servers.predict(features), features, rows)
            asked.is_from_server = True
        except NoPrediction as error:
            self._metrics.fell_back(error.reason)
            prediction = self._learner.predict(features, rows)
        self._publish(request, asked, prediction, before)

    def _publish(self, request: Request, asked: _Asked, prediction: Prediction, before: float) -> None:
        asked.prediction = prediction
        levels_ms = prediction.levels_ms
        if levels_ms is None:
            if self._predictions is None:
                self._metrics.fell_back(UNTRAINED)
            return
        by_row = self._by_row(asked.candidates, levels_ms)
        slo = asked.slo
        budgets_ms = self._budgets_ms(slo, by_row.shape[1])
        request.data[self._key] = LatencyPrediction(by_row, budgets_ms, slo.ttft_ms, slo.tpot_ms)
        asked.took_s = perf_counter() - before

    def _by_row(self, candidates: Candidates, levels_ms: Floats) -> Floats:
        """Levels of both targets by row of the fleet; NaN for rows of no candidate."""
        unknown, capacity = self._unknown, self.handle.fleet.capacity
        if candidates is not self._placed or unknown.shape[1] != capacity:
            unknown = self._unknown = np.full((_LEVELS, capacity), math.nan)
            self._places = (capacity * np.arange(_LEVELS)[:, None] + candidates.rows).ravel()
            self._placed = candidates
        by_row = unknown.copy()
        by_row.put(self._places, levels_ms)
        return by_row

    def _budgets_ms(self, slo: Slo, capacity: int) -> Floats:
        """By row: for each output token."""
        if slo.tpot_ms == math.inf and not self._running.count:
            if len(self._budgets) != capacity:
                self._budgets = np.full(capacity, math.inf)
            return self._budgets
        tightest = np.minimum(self._running.tightest_ms[:capacity], slo.tpot_ms)
        tightest[self._rows.roles[:capacity] == POD_TYPES[_PREFILL]] = math.inf
        budgets: Floats = tightest * self.params.slo_buffer_factor
        return budgets

    # --- the pick ------------------------------------------------------------------------------------------------------------

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        asked = request.state.get(self)
        if not isinstance(asked, _Asked):
            return
        now_s = self._clock()
        target = result.target
        reader = prefill_endpoint(result) or target
        if now_s - asked.made_s > _STALE_S and not asked.is_from_server:
            # What was seen when it was predicted is no longer what the pick has seen.
            asked.candidates = request.candidates or asked.candidates
            asked.features = self._rows.make(request, asked.candidates, now_s)
            asked.prediction = None
        if asked.prediction is None:
            asked.prediction = self._learner.predict(asked.features, asked.candidates.rows)
        place = _place(asked.candidates, reader)
        prefill_decision = asked.prediction.keep(place)
        decision = prefill_decision if reader is target else asked.prediction.keep(_place(asked.candidates, target))
        payload = request.payload
        record = LatencyRecord(target, now_s, choices=payload.choices)
        _fill(record, prefill_decision, decision, asked.slo)
        charge = Charge(
            target,
            reader,
            uncached_tokens(asked.features[place]),
            self._learner.expected_output_tokens(payload.max_output_tokens, payload.choices),
        )
        self._ledger.dispatched(charge)
        self._running.add(target, asked.slo.tpot_ms)
        course = Course(record, charge, asked.slo, decision=decision, prefill_decision=prefill_decision)
        course.teaches = self._allowance.take(now_s)
        request.state[self] = course
        request.data[self._record_key] = record
        self._metrics.dispatched(request, record, asked.took_s)

    # --- the response --------------------------------------------------------------------------------------------------------

    def response_received(self, request: Request, response: Response) -> None:
        course = request.state.get(self)
        if not isinstance(course, Course):
            return
        course.answered(response, request.payload)
        if response.body_seen:
            self._bodiless = -1
        elif 200 <= response.status < 300:
            # Nobody will say when its first token came. Servers send headers before it.
            expected_ms = course.record.predicted_ttft_ms
            expected_s = course.record.dispatched_s + expected_ms / 1e3 if expected_ms > 0 else -math.inf
            now_s = self._clock()
            self._ledger.begins_at(course.charge, min(expected_s, now_s + _LONGEST_S), now_s)

    def response_chunk(self, request: Request, response: Response, chunk: bytes) -> None:
        course = request.state.get(self)
        if not isinstance(course, Course):
            return
        if course.content is None:
            if not course.charge.has_begun:
                self._ledger.first_token(course.charge)  # a whole answer: its prompt has been read
            return
        if course.piece(chunk, self._clock()):
            self._ledger.first_token(course.charge)
            record = course.record
            if course.teaches:
                self._learner.observe(course.prefill_decision, course.charge.prefiller, ttft_ms=record.ttft_ms)
            self._metrics.first_token(request, record)

    def response_ending(self, request: Request, response: Response) -> None:
        course = request.state.get(self)
        if isinstance(course, Course):
            course.finished(response)

    def response_complete(self, request: Request, response: Response) -> None:
        course = request.state.pop(self, None)
        if not isinstance(course, Course):
            return
        self._ledger.ended(course.charge)
        self._running.remove(course.record.endpoint, course.slo.tpot_ms)
        course.finished(response)
        taught = lesson(course, response, request.payload, self._clock())
        if taught.ttft_ms is not None and course.teaches:
            self._learner.observe(
                course.prefill_decision, course.charge.prefiller, ttft_ms=taught.ttft_ms, is_censored=taught.is_censored
            )
        if taught.tpot_ms is not None and course.teaches:
            self._learner.observe(
                course.decision, course.record.endpoint, tpot_ms=taught.tpot_ms, is_censored=taught.is_censored
            )
        usage = response.usage
        if usage is not None and usage.completion_tokens:
            self._learner.answered(usage.completion_tokens / request.payload.choices)
        self._metrics.ended(request, course.record, taught)
        if taught.unlearned == NO_BODY and self._bodiless >= 0:
            self._count_bodiless()

    def _count_bodiless(self) -> None:
        self._bodiless += 1
        if self._bodiless == _BODILESS:
            self._bodiless = -1
            self.handle.log.warning(
                "plugin %s: the proxy has sent no response body so far, and nothing can be learnt without; "
                "see `epp envoy-config --response-bodies`",
                self.name,
            )

    # --- endpoints -----------------------------------------------------------------------------------------------------------

    def endpoint_added(self, endpoint: Endpoint) -> None:
        self._fit()
        label = self.params.endpoint_role_label
        self._rows.roles[endpoint.row] = POD_TYPES.get(endpoint.labels.get(label, ""), 0.0) if label else 0.0
        self._learner.endpoint_added(endpoint)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._ledger.forget(endpoint)
        self._running.forget(endpoint)
        self._learner.endpoint_removed(endpoint)

    def _fit(self) -> None:
        capacity = self.handle.fleet.capacity
        for by_row in (self._ledger, self._running, self._learner):
            by_row.fit(capacity)

    # --- training ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._samples is not None:
            self._samples.start()
        if self._predictions is None:
            self._learner.start()
        else:
            self._learner.close()
        self._polling = self.handle.outside.spawn(self._poll(), name=f"training of {self.name}")

    def stop(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
        if self._samples is not None:
            self._samples.close()
        if not self._given_away:
            self._learner.close()

    async def _poll(self) -> None:
        while True:
            await self.handle.sleep(_POLL_S)
            if self._given_away:
                return
            self.poll()

    def poll(self) -> None:
        """Take up what has been trained, and bring gauges up to date."""
        self._learner.poll()
        self._metrics.refresh(self._learner)

    # --- over a restart ------------------------------------------------------------------------------------------------------

    def take_over(self, predecessor: Self) -> None:
        """Go on with the very same model, process and counts: requests that began before end on them."""
        self._learner = predecessor._learner
        self._learner.also = None if self._samples is None else self._samples.add
        self._metrics = predecessor._metrics
        self._bodiless = predecessor._bodiless
        self._use(predecessor._ledger, predecessor._running)
        predecessor._given_away = True

    def save_state(self) -> Iterable[bytes]:
        yield self._learner.saved()

    def load_state(self, state: memoryview, *, version: int) -> None:
        self._learner.restore(state)

    # --- telling how it goes -------------------------------------------------------------------------------------------------

    def export(self) -> Iterator[bytes]:
        """The newest observations, with what had been predicted for them, as CSV."""
        return self._learner.history.csv()

    def dump_state(self) -> object:
        learner, counts = self._learner, self._ledger.counts
        training = learner.training
        return {
            "trained": learner.is_trained,
            "problem": learner.problem,
            "servers": None if self._predictions is None else self._predictions.working,
            "training": None if training is None else _plain(msgspec.structs.asdict(training)),
            "targets": {
                target: _plain(
                    {
                        "version": status.version,
                        "samples": status.samples,
                        "age_s": round(status.age_s, 1),
                        "observations": status.observations,
                    }
                )
                for target, status in learner.predictor.status().items()
            },
            "predictions": {
                target: {"count": told.count, "coverage": told.coverage, "median_error": told.median_error}
                for target, told in learner.predictor.judged().items()
            },
            "endpoints": {
                endpoint.name: {
                    "running": counts.item(0, endpoint.row),
                    "without_first_token": counts.item(4, endpoint.row),
                    "uncached_tokens": counts.item(3, endpoint.row),
                    "tightest_tpot_slo_ms": _known(self._running.tightest_ms.item(endpoint.row)),
                }
                for endpoint in self.handle.fleet.candidates()
            },
        }


def _place(candidates: Candidates, endpoint: Endpoint) -> int:
    """Its row in a matrix for these candidates. Raises ValueError where it is none of them."""
    rows: list[int] = candidates.rows.tolist()
    return rows.index(endpoint.row)


def _fill(record: LatencyRecord, of_prompt: Decision, of_tokens: Decision, slo: Slo) -> None:
    if slo is not NO_SLO:
        record.ttft_slo_ms, record.tpot_slo_ms = slo.ttft_ms, slo.tpot_ms
    record.predicted_ttft_ms = of_prompt.ttft_ms
    record.predicted_ttft_low_ms, record.predicted_ttft_high_ms = of_prompt.ttft_low_ms, of_prompt.ttft_high_ms
    record.predicted_tpot_ms = of_tokens.tpot_ms
    record.predicted_tpot_low_ms, record.predicted_tpot_high_ms = of_tokens.tpot_low_ms, of_tokens.tpot_high_ms


def _known(value: float) -> float | None:
    """None for what JSON cannot hold."""
    return value if math.isfinite(value) else None


def _plain(values: dict[str, object]) -> dict[str, object]:
    return {k: _known(v) if isinstance(v, float) else v for k, v in values.items()}
