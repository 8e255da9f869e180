"""What the spans of a request are called and say: the names and attributes of llm-d-router's EPP, and a few more.

Of a request whose trace is recorded only times are noted on its way; its spans are made when it is over. The exporter is
somebody else's: nothing here sends anything, and OpenTelemetry is imported only by whoever makes a `Tracing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from epp.api import Request, RequestError, Response
from epp.scheduling.stopwatch import Stopwatch
from epp.scheduling.trace import ProfileRun

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

_TOP: Final = 5  # endpoints that a pick is shown with
_SPAN_OF_CALL: Final[Mapping[tuple[str, str], str]] = {
    ("DataProducer", "precise-prefix-cache-producer"): "produce_precise_prefix_cache",
    ("ProfilePicker", "disagg-profile-handler"): "pick_disagg_profile",
    ("PreRequest", "disagg-headers-handler"): "prepare_disaggregation",
}

Attributes = dict[str, Any]


class RequestTrace(Stopwatch):
    """A request whose trace is recorded, in its state."""

    __slots__ = ("_offset_ns", "began_s", "decided_s", "error", "span")

    def __init__(self, span: Span) -> None:
        super().__init__()
        self.span = span
        self.began_s = perf_counter()
        self.decided_s = 0.0
        self.error = ""  # what the client was told
        self._offset_ns = time_ns() - int(self.began_s * 1e9)

    def ns(self, stamp_s: float) -> int:
        """Of perf_counter's time, since 1970."""
        return self._offset_ns + int(stamp_s * 1e9)


class Tracing:
    """One for all requests. `begin`, then `decided` or `refused`, then `end`."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import propagate, trace

        self._tracer = tracer
        self._extract: Callable[[Mapping[str, str]], Context] = propagate.extract
        self._inject: Callable[[dict[str, str], Context], None] = propagate.inject
        self._in_context = trace.set_span_in_context
        self._server = trace.SpanKind.SERVER
        self._failed = trace.StatusCode.ERROR

    def begin(self, request: Request) -> RequestTrace | None:
        """Join the trace that the request's headers name, and let the model server join it; None: it is not recorded."""
        parent = self._extract(request.headers)
        span = self._tracer.start_span("gateway.request", context=parent, kind=self._server)
        self._inject(request.set_headers, self._in_context(span, parent))
        if not span.is_recording():
            return None
        record = request.state[RequestTrace] = RequestTrace(span)
        return record

    def decided(self, request: Request) -> None:
        """The request is on its way."""
        record: RequestTrace | None = request.state.get(RequestTrace)
        if record is not None:
            record.decided_s = perf_counter()

    def refused(self, request: Request, error: RequestError) -> None:
        """The client is told `error`."""
        record: RequestTrace | None = request.state.get(RequestTrace)
        if record is not None:
            record.error = error.body
            record.decided_s = record.decided_s or perf_counter()

    def end(self, request: Request, response: Response) -> None:
        """The request is over, however."""
        record: RequestTrace | None = request.state.pop(RequestTrace, None)
        if record is None:
            return
        ended_s = perf_counter()
        context = self._in_context(record.span)
        decided_s = record.decided_s or ended_s
        self._orchestration(record, request, context, decided_s)
        record.span.set_attributes(_of_request(request, response))
        if record.error or response.status >= 500:
            record.span.set_status(self._failed, record.error or None)
        record.span.end(record.ns(ended_s))

    def _orchestration(self, record: RequestTrace, request: Request, context: Context, decided_s: float) -> None:
        attributes = {"target_model": request.model, "request_prio": request.priority}
        span = self._start(record, "gateway.request_orchestration", context, record.began_s, attributes)
        inside = self._in_context(span)
        for call in record.calls:
            name = _SPAN_OF_CALL.get((call.point, call.type))
            if name is not None:
                self._start(record, name, inside, call.began_s, {}).end(record.ns(call.ended_s))
        for run, stamps in zip(record.trace, record.runs, strict=False):
            self._profile(record, request, run, stamps, inside)
        if record.error:
            span.set_status(self._failed, record.error)
        span.end(record.ns(decided_s))

    def _profile(
        self, record: RequestTrace, request: Request, run: ProfileRun, stamps: list[float], context: Context
    ) -> None:
        whose = {"gen_ai.request.model": request.model, "gen_ai.request.id": request.id}
        began_s, filtered_s = stamps[0], stamps[1]
        name = {"llm_d.epp.scheduling.profile.name": run.profile.name}
        profile = self._start(record, "run_scheduler_profile", context, began_s, name)
        inside = self._in_context(profile)
        filtered = {
            "llm_d.epp.filter.candidate_endpoints": len(run.given),
            "llm_d.epp.filter.filtered_endpoints": len(run.left),
        }
        self._start(record, "filter_endpoints", inside, began_s, filtered | whose).end(record.ns(filtered_s))
        if run.totals is None:
            profile.set_status(self._failed, "no endpoint is left")
        else:
            scored_s = stamps[-2]
            count = {
                "llm_d.epp.scorer.count": len(run.profile.scorers),
                "llm_d.epp.scoring.candidate_endpoints": len(run.left),
            }
            scoring = self._start(record, "llm_d.epp.scoring", inside, filtered_s, count | whose)
            within = self._in_context(scoring)
            for (kind, attributes), scorer_began_s, scorer_ended_s in zip(
                _of_scorers(run), stamps[1:-2], stamps[2:-1], strict=True
            ):
                name_of_scorer = f"llm_d.epp.scorer.{kind}"
                scorer = self._start(record, name_of_scorer, within, scorer_began_s, attributes)
                scorer.end(record.ns(scorer_ended_s))
            scoring.end(record.ns(scored_s))
            self._start(record, "pick_endpoints", inside, scored_s, _of_pick(run) | whose).end(record.ns(stamps[-1]))
        profile.end(record.ns(stamps[-1]))

    def _start(self, record: RequestTrace, name: str, context: Context, began_s: float, attributes: Attributes) -> Span:
        return self._tracer.start_span(name, context=context, attributes=attributes, start_time=record.ns(began_s))


def _of_request(request: Request, response: Response) -> Attributes:
    found: Attributes = {"gen_ai.request.model": request.model, "gen_ai.request.id": request.id}
    if request.result is not None:
        found["llm_epp.endpoint"] = request.result.target.host_port
    if response.status:
        found["http.response.status_code"] = response.status
    usage = response.usage
    if usage is not None:
        tokens = {"input": usage.prompt_tokens, "output": usage.completion_tokens}
        found |= {f"gen_ai.usage.{kind}_tokens": count for kind, count in tokens.items() if isinstance(count, int)}
    return found


def _of_scorers(run: ProfileRun) -> Iterator[tuple[str, Attributes]]:
    for (scorer, weight), scores in zip(run.profile.scorers, run.scores, strict=True):
        attributes: Attributes = {
            "llm_d.epp.scorer.type": scorer.type,
            "llm_d.epp.scorer.name": scorer.name,
            "llm_d.epp.scorer.weight": weight,
            "llm_d.epp.scorer.candidate_endpoints": len(run.left),
            "llm_d.epp.scorer.endpoints_scored": 0 if scores is None else len(scores),
        }
        if scores is not None:  # it failed
            attributes["llm_d.epp.scorer.score.max"] = float(scores.max())
            attributes["llm_d.epp.scorer.score.avg"] = float(scores.mean())
        yield scorer.type, attributes


def _of_pick(run: ProfileRun) -> Attributes:
    totals = run.totals
    assert totals is not None
    best = np.argsort(-totals, kind="stable")[:_TOP]
    endpoints = run.left.endpoints
    return {
        "llm_d.epp.picker.candidate_endpoints": len(run.left),
        "llm_d.epp.picker.top_endpoints": [f"{endpoints[i].namespace}/{endpoints[i].name}" for i in best],
        "llm_d.epp.picker.top_scores": [float(totals[i]) for i in best],
    }
