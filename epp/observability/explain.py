"""The last decisions, kept as references to what deciding made anyway; nothing is worked out until somebody asks.

What is kept never includes the request, its headers, its payload or an exception (whose traceback holds all of them): no
text of a prompt is here. `epp.observability.explanation` makes something readable of it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from epp.api import (
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Candidates,
    Endpoint,
    Fleet,
    Floats,
    LatencyPrediction,
    LatencyRecord,
    PrefixMatch,
    Request,
    RequestError,
    Response,
    SchedulingResult,
    Termination,
    Usage,
)
from epp.scheduling.trace import Trace
from epp.scheduling.unavailable import Removed, Unavailable

KEPT: Final = 10_000  # decisions
# Vectors grow with the fleet: 10,000 decisions over 512 endpoints would hold 300 MB of them.
DETAIL_BYTES: Final = 64 << 20
_NUMBER_BYTES: Final = 8
_VECTOR_BYTES: Final = 112  # of an array besides its numbers


# gc=False here and below: ten thousand of each are kept, the collector of cycles would visit them all, and they are in none.
class Reading(msgspec.Struct, frozen=True, gc=False):
    """The fleet's metrics at one moment, by row. Shared by all decisions between two readings of any metrics page."""

    stamp: bytes
    waiting: Floats
    running: Floats
    kv_cache_usage: Floats
    updated_s: Floats


class Detail(msgspec.Struct, frozen=True, gc=False):
    """What was known and what the profiles made of it. `pool` is every endpoint, `given` those that were to be scheduled."""

    pool: Candidates
    given: Candidates
    trace: Trace
    reading: Reading
    in_flight: Floats  # requests by row, without this one
    prefixes: tuple[tuple[str, PrefixMatch], ...]  # with the keys they were published under; what is surest first
    latency: LatencyPrediction | None  # of the first producer that predicted any
    size_bytes: int  # of its vectors, roughly


class Latencies(msgspec.Struct, frozen=True, gc=False):
    """Of one request, milliseconds: what was predicted of the endpoint that was chosen, and what it took. NaN: not known."""

    ttft_ms: float
    predicted_ttft_ms: float
    predicted_ttft_low_ms: float
    predicted_ttft_high_ms: float
    tpot_ms: float
    predicted_tpot_ms: float
    predicted_tpot_low_ms: float
    predicted_tpot_high_ms: float


class Screening:
    """Which screeners removed somebody, in a request's state until it is scheduled. `seen`: what the first of all saw."""

    __slots__ = ("seen", "steps")

    def __init__(self, seen: Candidates) -> None:
        self.seen = seen
        self.steps: list[tuple[str, Candidates]] = []

    def note(self, request: Request, name: str, left: Candidates) -> None:
        self.steps.append((name, left))
        request.state[Screening] = self


class Decision(msgspec.Struct, gc=False):
    """One request as it was decided, and as it ended once it has. `detail` is None where it is not kept any more.

    Of a refused request `refusal` is the code, `message` what the client was told, and `removed` says who left it without an
    endpoint, out of `total`.
    """

    number: int  # 1, 2, ...: in the order of decisions
    at_s: float  # wall clock
    decided_s: float  # the fleet's clock
    id: str
    model: str
    target_model: str
    objective: str
    priority: int
    fairness_id: str
    config_hash: str
    detail: Detail | None = None
    took_s: float = 0.0  # scheduling alone
    primary: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    destination: str = ""  # where it differs from `endpoints`
    screening: Screening | None = None  # where screeners removed somebody

    refusal: str = ""
    message: str = ""
    total: int | None = None
    removed: Removed = ()

    ended: bool = False
    status: int = 0
    served: str = ""
    ttft_s: float | None = None
    duration_s: float | None = None
    usage: Usage | None = None
    latencies: Latencies | None = None  # where they were predicted
    termination: Termination | None = None


class Decisions:
    """The ring. `keep`: how many decisions (0: none, at no cost); of the latest, as many in detail as fit `detail_bytes`."""

    def __init__(
        self, fleet: Fleet, clock: Callable[[], float], *, keep: int = KEPT, detail_bytes: int = DETAIL_BYTES
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._ring: deque[Decision] = deque(maxlen=keep)
        self._detailed: deque[Decision] = deque()
        self._detail_bytes = detail_bytes
        self._held_bytes = 0
        self._reading: Reading | None = None
        self._next = 1
        self._keep = keep
        self.keeps = keep > 0

    def __len__(self) -> int:
        return len(self._ring)

    # --- on the way of a request -------------------------------------------------------------------------------------

    def trace(self) -> Trace | None:
        """What to hand to the scheduler."""
        return [] if self.keeps else None

    def scheduled(
        self,
        request: Request,
        config_hash: str,
        candidates: Candidates,
        trace: Trace | None,
        result: SchedulingResult | None,
        took_s: float,
    ) -> None:
        """Call it before the pick is counted in: loads are noted as the scheduler saw them. `result` None: nobody was left."""
        if trace is None:
            return
        decision = self._begun(request, config_hash)
        decision.detail = self._detail(request, candidates, trace)
        decision.took_s = took_s
        if result is not None:
            decision.primary = result.primary
            decision.endpoints = result.endpoints
            decision.destination = result.destination
        decision.screening = request.state.get(Screening)
        self._add(decision, request)

    def refused(self, request: Request | None, config_hash: str, error: RequestError) -> None:
        """The client is told `error`. Without a request it was refused before it was read."""
        if not self.keeps:
            return
        decision: Decision | None = None if request is None else request.state.get(Decision)
        if decision is None:
            decision = self._begun(request, config_hash)
            self._add(decision, request)
        decision.refusal = error.code.value
        decision.message = error.message
        decision.status = error.http_status
        if isinstance(error, Unavailable):
            decision.total = error.total
            decision.removed = error.removed
        if request is None:
            decision.ended = True

    def ended(self, request: Request, response: Response) -> None:
        """The request is over, however."""
        decision: Decision | None = request.state.get(Decision)
        if decision is not None:
            _conclude(decision, request, response)

    # --- for those who ask -------------------------------------------------------------------------------------------

    def of(self, request: Request, response: Response, config_hash: str) -> Decision:
        """The decision about a request that is over; where none is kept, what can be told without."""
        decision: Decision | None = request.state.get(Decision)
        if decision is None:
            decision = self._begun(request, config_hash)
            if request.result is not None:
                decision.endpoints = request.result.endpoints
            decision.refusal = response.refusal
            _conclude(decision, request, response)
        return decision

    def find(self, request_id: str) -> Decision | None:
        """The latest decision about the request with this id."""
        return next((d for d in reversed(self._ring) if d.id == request_id), None)

    def last(self, count: int) -> list[Decision]:
        """The latest, the earliest of them first."""
        return list(islice(reversed(self._ring), count))[::-1]

    def after(self, number: int, count: int) -> list[Decision]:
        """The first `count` decisions later than that number, the earliest first."""
        newer: list[Decision] = []
        for decision in reversed(self._ring):
            if decision.number <= number:
                break
            newer.append(decision)
        return newer[::-1][:count]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _begun(self, request: Request | None, config_hash: str) -> Decision:
        """What is known before scheduling. None: a request that could not even be read."""
        if request is None:
            return Decision(self._next, time.time(), self._clock(), "", "", "", "", 0, "", config_hash)
        return Decision(
            self._next,
            time.time(),
            self._clock(),
            request.id,
            request.incoming_model,
            request.model,
            request.objective,
            request.priority,
            request.fairness_id,
            config_hash,
        )

    def _add(self, decision: Decision, request: Request | None) -> None:
        self._next += 1
        if request is not None:
            request.state[Decision] = decision
        ring, detailed = self._ring, self._detailed
        if len(ring) == self._keep and detailed and detailed[0] is ring[0]:
            self._drop_detail()
        ring.append(decision)
        if decision.detail is not None:
            detailed.append(decision)
            self._held_bytes += decision.detail.size_bytes
            while self._held_bytes > self._detail_bytes:
                self._drop_detail()

    def _detail(self, request: Request, candidates: Candidates, trace: Trace) -> Detail:
        columns = self._fleet.columns
        updated_s = columns[METRICS_UPDATED_S]
        stamp = updated_s.tobytes()
        vector_bytes = len(stamp) + _VECTOR_BYTES
        pool = self._fleet.candidates()
        _ = pool.endpoints  # looked up by row now: a row may be another's later
        vectors = 1
        if candidates is not pool:
            _ = candidates.endpoints
            vectors = 2
        prefixes: tuple[tuple[str, PrefixMatch], ...] = ()
        latency: LatencyPrediction | None = None
        for item in request.data.items():
            if isinstance(item[1], LatencyPrediction):
                latency = latency or item[1]
                vectors += 7
            elif isinstance(item[1], PrefixMatch):
                # What servers told goes before what is guessed of them.
                prefixes = (item, *prefixes) if item[1].told is not None else (*prefixes, item)
                vectors += 1 if item[1].cached_blocks is None else 2
        for run in trace:
            vectors += len(run.scores) + 2
        reading = self._reading
        # The collector stamps each page that it has read: until then the columns are what they were.
        if reading is None or reading.stamp != stamp:
            reading = self._reading = Reading(
                stamp,
                columns[WAITING_REQUESTS].copy(),
                columns[RUNNING_REQUESTS].copy(),
                columns[KV_CACHE_USAGE].copy(),
                updated_s.copy(),
            )
            vectors += 5
        in_flight = columns[IN_FLIGHT_REQUESTS].copy()
        return Detail(pool, candidates, trace, reading, in_flight, prefixes, latency, vectors * vector_bytes)

    def _drop_detail(self) -> None:
        decision = self._detailed.popleft()
        if decision.detail is not None:
            self._held_bytes -= decision.detail.size_bytes
            decision.detail = None


def _conclude(decision: Decision, request: Request, response: Response) -> None:
    received_s = request.received_s
    decision.ended = True
    if response.status:
        decision.status = response.status
    decision.served = response.served_endpoint or ""
    if response.first_chunk_s is not None:
        decision.ttft_s = response.first_chunk_s - received_s
    if response.ended_s is not None:
        decision.duration_s = response.ended_s - received_s
    decision.usage = response.usage
    if decision.detail is not None and decision.detail.latency is not None:
        decision.latencies = _latencies(request)
    decision.termination = response.termination


def _latencies(request: Request) -> Latencies | None:
    for record in request.data.values():
        if isinstance(record, LatencyRecord):
            tpot_ms = record.average_tpot_ms
            return Latencies(
                record.ttft_ms,
                record.predicted_ttft_ms,
                record.predicted_ttft_low_ms,
                record.predicted_ttft_high_ms,
                math.nan if tpot_ms is None else tpot_ms,
                record.predicted_tpot_ms,
                record.predicted_tpot_low_ms,
                record.predicted_tpot_high_ms,
            )
    return None
