"""One request's exchange with Envoy: what the stream asks is answered from the director, the plugins and the parser."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from epp.api import LatencyRecord, Parser, Request, RequestError, Response, Termination, Usage, UsageReader, headers
from epp.director.director import Director
from epp.director.latency_fields import METADATA_KEY, adder, record_for, six_fields
from epp.director.restoring import EventRestorer, Restorer, WholeRestorer
from epp.director.waiting import Path, Suspend, Wait
from epp.extproc.exchange import BodyMode, Destination, RequestHead, ResponseHead
from epp.observability.explain import Decision
from epp.observability.explanation import EXPLAIN, EXPLAINED, one_line
from epp.scheduling.observer import TIMED_EVERY

_EVENT_STREAM: Final = "text/event-stream"
_GAPS_AT_ONCE: Final = 256
# Globals: an enum's class is slow to read from.
_NO_BODIES: Final = BodyMode.NONE
_COMPLETE: Final = Termination.COMPLETE


def _nobody_waits(path: Path, wait: Wait) -> None:
    raise AssertionError("a closed exchange does not wait")


class RequestExchange:
    """Implements `epp.extproc.exchange.Exchange` for one request. `suspend` takes over when the decision has to wait."""

    __slots__ = (
        "_director",
        "_end_told",
        "_gaps_s",
        "_handling_s",
        "_headers_only",
        "_latencies",
        "_mode",
        "_pipeline",
        "_restorer",
        "_suspend",
        "_usage",
        "request",
        "response",
    )

    def __init__(self, director: Director, suspend: Suspend) -> None:
        self._director = director
        self._pipeline = director.pipeline
        self._suspend = suspend
        self._mode: BodyMode = _NO_BODIES
        self._usage: UsageReader | None = None
        self._restorer: Restorer | None = None
        self._headers_only = False
        self._latencies: LatencyRecord | None = None  # to be told to the client
        self._end_told = False
        self._gaps_s: list[float] | None = None  # between the pieces of a streamed response, not recorded yet
        self._handling_s: float | None = None  # spent on the body of a streamed response; only timed for some of them
        self.request: Request | None = None
        self.response = Response()

    # --- request -----------------------------------------------------------------------------------------------------

    def route(self, head: RequestHead, body: bytes | None) -> Destination | None:
        director = self._director
        request_id = head.headers.get(headers.REQUEST_ID, "")
        request = self.request = Request(request_id or str(uuid.uuid4()), head.headers, received_s=director.clock())
        if not request_id:
            request.set_headers[headers.REQUEST_ID] = request.id
        if director.tracing is not None:
            director.tracing.begin(request)
        self._mode = head.response_body_mode
        self._headers_only = head.end_of_stream
        self._handling_s = 0.0 if director.times_next else None
        path = director.path(self._pipeline, request, head, body)
        try:
            waiting = next(path)
        except StopIteration as done:
            destination: Destination = done.value
            return self.decided(destination)
        self._suspend(path, waiting)
        return None

    def decided(self, destination: Destination) -> Destination:
        """Note that the request is on its way. Called with the path's outcome, also when it had to wait."""
        request = self.request
        assert request is not None
        if self._director.tracing is not None:
            self._director.tracing.decided(request)
        # Requests without a body (lists of models, health checks) are no inference: the Go EPP does not count them either.
        if not self._headers_only:
            self._director.recorder.request_routed(request)
            self._director.recorder.request_started(request)
        return destination

    def refused(self, error: RequestError) -> None:
        error.headers = self._director.sendable.headers(error.headers)
        self.response.status = error.http_status
        self.response.refusal = error.code.value
        director = self._director
        if director.tracing is not None and self.request is not None:
            director.tracing.refused(self.request, error)
        director.recorder.request_refused(self.request, error.code)
        director.decisions.refused(self.request, self._pipeline.config_hash, error)
        if director.explain_header and (self._explained() or EXPLAINED in error.headers):
            # A plugin may raise the same error for every request: another's explanation must not stay in it.
            error.headers = {k: v for k, v in error.headers.items() if k != EXPLAINED} | self._explained()

    def _explained(self) -> dict[str, str]:
        """The header that a trusted caller has asked for; empty where none has."""
        request = self.request
        if request is None or request.headers.get(EXPLAIN) != "1":
            return {}
        decision = request.state.get(Decision)
        return {} if decision is None else {EXPLAINED: one_line(decision)}

    def failed(self, where: str, error: Exception) -> None:
        request_id = self.request.id if self.request is not None else ""
        self._director.log.error(
            "unexpected error while handling a request",
            exc_info=error,
            extra={"fields": {"id": request_id, "where": where}},
        )

    # --- response ----------------------------------------------------------------------------------------------------

    def response_headers(self, head: ResponseHead, *, hold_allowed: bool) -> Mapping[str, str]:
        response = self.response
        response.status = head.status
        response.headers = head.headers
        response.served_endpoint = head.served
        response.started_s = self._director.clock()
        content_type = head.headers.get("content-type", "")
        response.streaming = _EVENT_STREAM in content_type
        request = self.request
        if request is None:
            return {}
        response.body_seen = self._mode is not _NO_BODIES and not head.end_of_stream
        for hook in self._pipeline.response_received:
            try:
                hook.response_received(request, response)
            except Exception as error:
                self._director.recorder.plugin_failed("ResponseReceived", hook, error)
        if response.body_seen:
            self._director.bodies.sent(self._pipeline)
            if response.streaming:
                self._gaps_s = []
            self._read_body(request, response, hold_allowed=hold_allowed)
        if self._director.explain_header:
            response.set_headers.update(self._explained())
        return self._director.sendable.headers(response.set_headers) if response.set_headers else {}

    def _read_body(self, request: Request, response: Response, *, hold_allowed: bool) -> None:
        parser: Parser | None = request.state.get(Parser)
        if parser is None:
            return
        self._usage = parser.usage_reader(request, response)
        self._latencies = record_for(request, self._director.latency_fields)
        asked, sent = request.incoming_model, request.model
        is_renamed = bool(asked) and asked != sent
        if not (is_renamed or self._latencies) or response.headers.get("content-encoding", "identity") != "identity":
            return
        restore = parser.restore_model
        add = adder(self._latencies, events=response.streaming) if self._latencies is not None else None

        def replace(body: bytes) -> bytes:
            if is_renamed:
                body = restore(body, sent=sent, asked=asked)
            return body if add is None else add(body)

        if response.streaming:
            self._restorer = EventRestorer(replace)
        elif hold_allowed and "json" in response.headers.get("content-type", ""):
            self._restorer = WholeRestorer(replace)

    def response_body(self, chunk: bytes, *, last: bool) -> bytes:
        handling_s = self._handling_s
        before = 0.0 if handling_s is None else perf_counter()
        response = self.response
        request = self.request
        if chunk:
            now = self._director.clock()
            hooks = self._pipeline.response_later_pieces
            if response.first_chunk_s is None:
                response.first_chunk_s = now
                hooks = self._pipeline.response_streaming
            elif self._gaps_s is not None and response.last_chunk_s is not None:
                self._gaps_s.append(now - response.last_chunk_s)
                if len(self._gaps_s) == _GAPS_AT_ONCE:
                    self._record_gaps()
            response.last_chunk_s = now
            response.chunks += 1
            response.size_bytes += len(chunk)
            if self._usage is not None:
                self._usage.feed(chunk)
            if request is not None:
                for hook in hooks:
                    try:
                        hook.response_chunk(request, response, chunk)
                    except Exception as error:
                        self._director.recorder.plugin_failed("ResponseStreaming", hook, error)
        if last:
            self._finish_usage()
            if request is not None and not self._end_told:
                self._tell_the_end(request)
        piece = chunk if self._restorer is None else self._restorer.feed(chunk, last=last)
        if handling_s is not None:
            self._handling_s = handling_s + perf_counter() - before
        return piece

    def response_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        return self._director.sendable.metadata(self.response.dynamic_metadata)

    def _tell_the_end(self, request: Request) -> None:
        """An empty last chunk may follow another last one: the hooks run at the first."""
        self._end_told = True
        for hook in self._pipeline.response_ending:
            try:
                hook.response_ending(request, self.response)
            except Exception as error:
                self._director.recorder.plugin_failed("ResponseEnding", hook, error)
        if self._latencies is not None:
            metadata = self.response.dynamic_metadata.setdefault(headers.METADATA_NAMESPACE, {})
            metadata[METADATA_KEY] = six_fields(self._latencies)

    def _finish_usage(self) -> None:
        reader, self._usage = self._usage, None
        if reader is None:
            return
        usage = reader.finish()
        if usage is not None and not isinstance(usage, Usage):
            raise TypeError(f"a usage reader has returned {type(usage).__name__}")
        self.response.usage = usage

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self, termination: Termination) -> None:
        request, response = self.request, self.response
        if request is None:
            return
        response.termination = termination
        response.ended_s = self._director.clock()
        try:
            self._finish_usage()
        except Exception as error:
            self.failed("usage", error)
        if request.result is not None:
            for hook in self._pipeline.response_complete:
                try:
                    hook.response_complete(request, response)
                except Exception as error:
                    self._director.recorder.plugin_failed("ResponseComplete", hook, error)
        # Whoever takes over waits refers back to this exchange: without the circle its memory is free at once.
        self._suspend = _nobody_waits
        try:
            self._record_gaps()
            self._time_handling(response)
            self._director.recorder.request_ended(request, response)
        # Numbers that come from a plugin may be none.
        except Exception as error:
            self.failed("metrics", error)
        if self._director.tracing is not None:
            try:
                self._director.tracing.end(request, response)
            # Attributes come from plugins, too: a trace is no reason to end badly.
            except Exception as error:
                self.failed("tracing", error)
        self._director.decisions.ended(request, response)
        self._director.request_log.request_line(request, response, self._pipeline.config_hash)

    def _record_gaps(self) -> None:
        if self._gaps_s and self.request is not None:
            self._director.recorder.pieces_came(self.request, self._gaps_s)
            self._gaps_s = []

    def _time_handling(self, response: Response) -> None:
        if not response.body_seen or response.termination is not _COMPLETE:
            return
        if not response.streaming:
            assert response.started_s is not None
            assert response.ended_s is not None
            self._director.recorder.response_handled(response.ended_s - response.started_s)
        elif self._handling_s is not None:
            self._director.recorder.response_handled(self._handling_s, count=TIMED_EVERY)
