"""One request from its dispatch to its end: what its response shows, and what may be learnt from that.

Time to first token ends with the first event that brings content, of a 2xx answer. A whole answer (not streamed) has no such
moment: its end is no first token, so it teaches neither latency. Nor do errors. A request that the client gave up, or that was
evicted, shows that its latency would have been at least so long.
"""

from __future__ import annotations

from typing import Final

import msgspec

from epp.api import LatencyRecord, Payload, Response, Slo, Termination
from epp_plugins.latency.content import EventContent, EveryPiece
from epp_plugins.latency.ledger import Charge
from epp_predictor.predictor import Decision

# Globals: an enum's class is slow to read from.
_COMPLETE: Final = Termination.COMPLETE
_GIVEN_UP: Final = (Termination.CLIENT_DISCONNECT, Termination.EVICTED)
_PLAIN: Final = ("", "identity")

# Why a request teaches nothing.
NO_BODY: Final = "no response body"
NOT_STREAMED: Final = "not streamed"
STATUS: Final = "status"
FAILED: Final = "failed"
GIVEN_UP: Final = "given up"
ENCODED: Final = "encoded"
NO_CONTENT: Final = "no content"
UNLEARNED: Final = (NO_BODY, NOT_STREAMED, STATUS, FAILED, GIVEN_UP, ENCODED, NO_CONTENT)


class Course:
    """What is kept of a request that is on its way."""

    __slots__ = ("charge", "content", "decision", "prefill_decision", "record", "slo", "teaches")

    def __init__(
        self,
        record: LatencyRecord,
        charge: Charge,
        slo: Slo,
        *,
        decision: Decision,
        prefill_decision: Decision,
    ) -> None:
        self.record = record
        self.charge = charge
        self.slo = slo
        self.decision = decision  # for the endpoint that generates
        self.prefill_decision = prefill_decision  # for the one that reads the prompt; mostly the same
        self.teaches = True  # else it is only compared with its prediction
        self.content: EventContent | EveryPiece | None = None  # None: pieces are not looked into

    def answered(self, response: Response, payload: Payload) -> None:
        """The response's headers have come."""
        if not 200 <= response.status < 300 or not response.body_seen:
            return
        if response.streaming:
            if response.headers.get("content-encoding", "") in _PLAIN:
                self.content = EventContent()
        elif payload.streaming and response.headers.get("content-type", "").startswith("application/grpc"):
            self.content = EveryPiece()

    def piece(self, chunk: bytes, now_s: float) -> bool:
        """A piece of the body has come. Whether it brought the first token."""
        content = self.content
        events = 0 if content is None else content.feed(chunk)
        if not events:
            return False
        record = self.record
        if record.first_content_s is None:
            record.ttft_ms = (now_s - record.dispatched_s) * 1e3
            record.first_content_s = record.last_content_s = now_s
            record.tokens = events
            return True
        record.came(events, now_s)
        return False

    def finished(self, response: Response) -> None:
        """The body is over: of how many tokens it was, the server knows best."""
        usage = response.usage
        if usage is not None and usage.completion_tokens is not None and self.record.first_content_s is not None:
            self.record.tokens = usage.completion_tokens


class Lesson(msgspec.Struct, frozen=True):
    """What the end of a request teaches; milliseconds, None: nothing. `unlearned` says why both are missing."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    is_censored: bool = False
    unlearned: str = ""


def lesson(course: Course, response: Response, payload: Payload, ended_s: float) -> Lesson:
    """At the end. The time to first token is not part of it where the first token has come: that was learnt then."""
    record, termination = course.record, response.termination
    if response.status and not 200 <= response.status < 300:
        return Lesson(unlearned=STATUS)
    first_s = record.first_content_s
    if first_s is None:
        return _without_content(course, response, payload, ended_s)
    if termination is _COMPLETE:
        return Lesson(tpot_ms=record.average_tpot_ms)
    if termination in _GIVEN_UP:
        tokens = max(record.tokens / record.choices, 1.0)
        return Lesson(tpot_ms=(ended_s - first_s) * 1e3 / tokens, is_censored=True)
    return Lesson(unlearned=FAILED)


def _without_content(course: Course, response: Response, payload: Payload, ended_s: float) -> Lesson:
    waits_for_token = course.content is not None if response.status else payload.streaming
    if response.termination in _GIVEN_UP:
        if not waits_for_token:
            return Lesson(unlearned=GIVEN_UP)
        return Lesson(ttft_ms=(ended_s - course.record.dispatched_s) * 1e3, is_censored=True)
    if response.termination is not _COMPLETE or not response.status:
        return Lesson(unlearned=FAILED)
    if not response.body_seen:
        return Lesson(unlearned=NO_BODY)
    if course.content is not None:
        return Lesson(unlearned=NO_CONTENT)
    return Lesson(unlearned=ENCODED if response.streaming else NOT_STREAMED)
