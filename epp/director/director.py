"""The way of a request from its bytes to its destination.

Between reading loads (schedule) and counting the pick in (the PreRequest hooks) nothing is awaited: with a single await
there, 200 concurrent picks over four equal endpoints all go to the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from time import perf_counter
from typing import Final

import numpy as np

from epp.api import (
    Candidates,
    Code,
    Parser,
    Plugin,
    Request,
    RequestError,
    SchedulingResult,
    headers,
)
from epp.config.pipeline import Pipeline
from epp.data.datastore import Datastore
from epp.director.encoding import Encodings
from epp.director.latency_fields import LatencyFields
from epp.director.preference import check_preference
from epp.director.sendable import Sendable
from epp.director.waiting import Path, Wait
from epp.extproc.exchange import Destination, RequestHead
from epp.observability.bodies import BodyWatch
from epp.observability.explain import Decisions, Screening
from epp.observability.metrics import Recorder
from epp.observability.requests import RequestLog
from epp.observability.tracing import RequestTrace, Tracing
from epp.scheduling.observer import TIMED_EVERY
from epp.scheduling.stopwatch import Stopwatch
from epp.scheduling.unavailable import Removed, Unavailable

_BODILESS_METHODS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_NO_CANDIDATES: Final = "failed to find endpoint candidates for serving the request"
_SUBSET_HINT: Final = "the proxy's subset hint"
_PATH_HEADERS: Final = (":path", "x-original-path", "x-forwarded-path")


class Director:
    """What all requests share. `use` replaces the pipeline at any time; a request keeps the one it began with."""

    def __init__(
        self,
        datastore: Datastore,
        pipeline: Pipeline,
        *,
        recorder: Recorder,
        clock: Callable[[], float],
        encodings: Encodings,
        use_subset_hint: bool = True,
        emit_scores: bool = False,
        decisions: Decisions | None = None,
        explain_header: bool = False,
        latency_fields: LatencyFields = LatencyFields.ASKED,
        tracing: Tracing | None = None,
    ) -> None:
        """`explain_header`: callers are trusted, and may ask for an explanation in a header of the response."""
        self.tracing = tracing
        self.datastore = datastore
        self.pipeline = pipeline
        self.recorder = recorder
        self.clock = clock
        self.decisions = decisions if decisions is not None else Decisions(datastore.fleet, clock, keep=0)
        self.request_log = RequestLog(self.decisions)
        self.explain_header = explain_header and self.decisions.keeps
        self.latency_fields = latency_fields
        self.log = logging.getLogger("epp.director")
        self.sendable = Sendable(self.log, clock)
        self.bodies = BodyWatch(recorder.response_body_sent, self.log)
        self._encodings = encodings
        self._use_subset_hint = use_subset_hint
        self._emit_scores = emit_scores
        self._paths = 0
        self._timers: dict[tuple[str, Plugin], Callable[[float], None]] = {}

    def path(self, pipeline: Pipeline, request: Request, head: RequestHead, body: bytes | None) -> Path:
        """Fill `request` and return its destination. Yields where a plugin has to wait.

        Raises RequestError when the request is refused. Once `request.result` is set, the request is accounted for and
        the completion hooks are owed.
        """
        timed = self.times_next
        watch = None if self.tracing is None else request.state.get(RequestTrace)
        self._paths += 1
        self._read(pipeline, request, head, body)
        self._rewrite(request)
        self._classify(pipeline, request)
        self._shed(pipeline, request)
        candidates = self._locate(request, head)
        candidates = self._screen(pipeline, request, candidates)
        request.candidates = candidates
        endpoints = candidates.endpoints if pipeline.producers or pipeline.admitters else ()
        waited = yield from self._produce(pipeline, request, candidates, timed=timed, watch=watch)
        for admitter in pipeline.admitters:
            before = perf_counter() if timed else 0.0
            waiting = admitter.admit(request, candidates)
            if timed:
                self.took("Admission", admitter, perf_counter() - before)
            if waiting is not None:
                waited = True
                yield Wait(waiting)
        if waited:
            # Rows of endpoints that went in the meantime may be others' by now.
            request.candidates = candidates = candidates.keep([e.alive for e in endpoints])
            if not len(candidates):
                raise _no_endpoints(_NO_CANDIDATES, len(endpoints), (("discovery", len(endpoints)),))
        result = self._schedule(pipeline, request, candidates, timed=timed, watch=watch)
        if "prefer" in request.headers:
            check_preference(request, result)
        self._account(pipeline, request, result, timed=timed, watch=watch)
        request.payload.forget_prompts()
        destination = self._destination(request, result, body)
        request.body = b""
        return destination

    @property
    def times_next(self) -> bool:
        """Whether what the next request costs is measured."""
        return self._paths % TIMED_EVERY == 0

    def use(self, pipeline: Pipeline) -> None:
        """Decide with `pipeline` from the next request on."""
        self.pipeline = pipeline
        self._timers.clear()  # they would keep the plugins that are gone

    def took(self, point: str, plugin: Plugin, duration_s: float) -> None:
        """A call of `plugin` at `point` that was timed."""
        timer = self._timers.get((point, plugin))
        if timer is None:
            timer = self._timers[point, plugin] = self.recorder.timer(point, plugin)
        timer(duration_s)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self, pipeline: Pipeline, request: Request, head: RequestHead, body: bytes | None) -> None:
        for name in _PATH_HEADERS:
            if request.headers.get(name):
                request.path = request.headers[name]
                break
        if body is None or (not body and request.method in _BODILESS_METHODS):
            return
        request.size_bytes = len(body)
        parser = pipeline.parsers.find(request.path)
        if parser.reads_body and "content-encoding" in request.headers:
            body = self._encodings.decode(body, request.headers["content-encoding"])
        request.body = body
        request.payload = parser.parse_request(request.path.partition("?")[0].rstrip("/"), request.headers, body)
        request.incoming_model = request.model = request.payload.model or ""
        request.state[Parser] = parser

    def _rewrite(self, request: Request) -> None:
        if request.payload.model is None and not request.payload.model_required:
            return
        request.model = headers.first_of(request.headers, headers.MODEL_REWRITE) or request.model
        rule = self.datastore.rewrite(request.incoming_model, request.headers)
        if rule is not None:
            name, request.model = rule
            self.recorder.model_rewritten(name, request.incoming_model, request.model)
        if not request.model:
            raise RequestError(Code.BAD_REQUEST, "model not found in request body")

    def _classify(self, pipeline: Pipeline, request: Request) -> None:
        request.objective = headers.first_of(request.headers, headers.OBJECTIVE)
        if request.objective:
            request.priority = self.datastore.priority_of(request.objective)
            request.objective_slo = self.datastore.slo_of(request.objective)
        for processor in pipeline.request_header:
            processor.process_request_header(request)
        if not request.fairness_id:
            request.fairness_id = headers.first_of(request.headers, headers.FAIRNESS_ID) or headers.DEFAULT_FAIRNESS_ID

    # --- admission and candidates ------------------------------------------------------------------------------------

    def _shed(self, pipeline: Pipeline, request: Request) -> None:
        if request.priority >= 0:
            return
        detector = pipeline.saturation_detector
        try:
            saturated = bool(detector.saturation(self.datastore.fleet.candidates()) >= 1.0)
        except Exception as error:
            self.recorder.plugin_failed("Saturation", detector, error)
            return
        if saturated:
            total = len(self.datastore.fleet)
            raise Unavailable(
                Code.RESOURCE_EXHAUSTED,
                "system saturated, sheddable request dropped",
                total=total,
                removed=((pipeline.saturation_detector.name, total),),
                headers={headers.DROPPED_REASON: "rejected-saturated"},
            )

    def _locate(self, request: Request, head: RequestHead) -> Candidates:
        subset = head.subset if self._use_subset_hint else None
        candidates = self.datastore.candidates_for(subset)
        if not len(candidates):
            if head.end_of_stream and subset is None:
                # The Go EPP's answer to a request without a body while the pool is empty; clients know it.
                raise Unavailable(Code.INTERNAL, "no pods available in datastore", total=0)
            total = len(self.datastore.fleet)
            raise _no_endpoints(_NO_CANDIDATES, total, ((_SUBSET_HINT, total),))
        return candidates

    def _screen(self, pipeline: Pipeline, request: Request, candidates: Candidates) -> Candidates:
        if not pipeline.screeners:
            return candidates
        allowed = np.ones(len(candidates), dtype=np.bool_)
        left = candidates
        removed: list[tuple[str, int]] = []
        screening = Screening(candidates)
        for screener in pipeline.screeners:
            try:
                stay = np.asarray(screener.screen(request, candidates), dtype=np.bool_)
                if stay.shape != allowed.shape:
                    raise ValueError(f"returned shape {stay.shape} for {len(candidates)} candidates")
                allowed &= stay
            except Exception as error:
                self.recorder.plugin_failed("Screener", screener, error)
            kept = candidates.keep(allowed)
            if len(kept) != len(left):
                removed.append((screener.name, len(left) - len(kept)))
                left = kept
                screening.note(request, screener.name, left)
        if not len(left):
            raise _no_endpoints("screeners eliminated all endpoint candidates", len(candidates), tuple(removed))
        return left

    def _produce(
        self, pipeline: Pipeline, request: Request, candidates: Candidates, *, timed: bool, watch: Stopwatch | None
    ) -> Generator[Wait, None, bool]:
        """Whether a producer had to wait."""
        waited = False
        for producer in pipeline.producers:
            before = perf_counter() if timed or watch is not None else 0.0
            try:
                waiting = producer.produce(request, candidates)
                if waiting is not None:
                    waited = True
                    yield Wait(waiting, producer.timeout_s)
            except Exception as error:
                self.recorder.plugin_failed("DataProducer", producer, error)
            if timed:
                self.took("DataProducer", producer, perf_counter() - before)
            if watch is not None:
                watch.called("DataProducer", producer.type, before)
        return waited

    # --- decision ----------------------------------------------------------------------------------------------------

    def _schedule(
        self, pipeline: Pipeline, request: Request, candidates: Candidates, *, timed: bool, watch: Stopwatch | None
    ) -> SchedulingResult:
        trace = told = self.decisions.trace()
        if watch is not None:
            told = watch.trace if trace is None else trace
            watch.trace = told
        before = self.clock()
        try:
            result = pipeline.scheduler.schedule(request, candidates, timed=timed, trace=told, watch=watch)
        except Exception:
            took_s = self.clock() - before
            self.recorder.scheduled(request, took_s, None)
            self.decisions.scheduled(request, pipeline.config_hash, candidates, trace, None, took_s)
            raise
        took_s = self.clock() - before
        self.recorder.scheduled(request, took_s, result.target)
        self.decisions.scheduled(request, pipeline.config_hash, candidates, trace, result, took_s)
        return result

    def _account(
        self, pipeline: Pipeline, request: Request, result: SchedulingResult, *, timed: bool, watch: Stopwatch | None
    ) -> None:
        request.result = result
        refusal: RequestError | None = None
        for hook in pipeline.pre_request:
            before = perf_counter() if timed or watch is not None else 0.0
            try:
                hook.pre_request(request, result)
            except RequestError as error:
                refusal = refusal or error
            except Exception as error:
                self.recorder.plugin_failed("PreRequest", hook, error)
            if timed:
                self.took("PreRequest", hook, perf_counter() - before)
            if watch is not None:
                watch.called("PreRequest", hook.type, before)
        if refusal is not None:
            raise refusal

    def _destination(self, request: Request, result: SchedulingResult, body: bytes | None) -> Destination:
        plain = request.body
        changed: bytes | None = None
        if plain and request.model != request.incoming_model:
            changed = request.payload.with_model(plain, request.model)
            if changed is plain:
                changed = None
            elif plain is not body:
                changed = self._encodings.encode(changed, request.headers["content-encoding"])
        metadata: dict[str, dict[str, object]] = {}
        if self._emit_scores:
            metadata[headers.METADATA_NAMESPACE] = {headers.DESTINATION_ENDPOINT_SCORES: _scores(result)}
        return Destination(
            result.destination or ",".join([e.host_port for e in result.endpoints]),
            set_headers=self.sendable.headers(request.set_headers),
            metadata=metadata,
            body=changed,
            skip_response=request.payload.skip_response,
        )


def _no_endpoints(message: str, total: int, removed: Removed) -> Unavailable:
    return Unavailable(
        Code.SERVICE_UNAVAILABLE,
        message,
        total=total,
        removed=removed,
        headers={headers.DROPPED_REASON: "rejected-no-endpoints"},
    )


def _scores(result: SchedulingResult) -> dict[str, float]:
    primary = result.profiles[result.primary]
    assert primary is not None
    return {e.host_port: float(s) for e, s in zip(primary.candidates, primary.scores, strict=True)}
