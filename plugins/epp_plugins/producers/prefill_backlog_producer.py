"""prefill-backlog-producer: how many prompt tokens wait at each endpoint before this request, and how fast it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Self

import msgspec
import numpy as np

from epp.api import (
    METRICS_UPDATED_S,
    PREFILL_BACKLOG,
    PREFIX_MATCH,
    WAITING_REQUESTS,
    Candidates,
    DataProducer,
    Endpoint,
    EndpointListener,
    Floats,
    Handle,
    PrefillBacklog,
    PrefixMatch,
    PreRequest,
    Request,
    Response,
    ResponseComplete,
    ResponseReceived,
    ResponseStreaming,
    SchedulingResult,
    StateDumper,
    StateKeeper,
    Termination,
    data_key,
)
from epp_plugins.latency.content import EventContent
from epp_plugins.prefill_lines import Line, PrefillLines, Prompt
from epp_plugins.roles import prefill_endpoint
from epp_plugins.strangers import Strangers

# After a response whose first token went by unseen: how many must be seen until every one is expected to be seen again.
_SEEN_IN_A_ROW: Final = 64
# A page may tell of the step before the one that was running when it was read.
_PAGE_LAG_S: Final = 0.15
_LEAST_SAMPLES_KEPT: Final = 5


class SavedRate(msgspec.Struct, frozen=True):
    """What is kept of an endpoint over a restart."""

    rate: float
    samples: int


_decode_rates = msgspec.json.Decoder(dict[str, SavedRate]).decode


class _Way:
    """One request on its way: its prompt in the line of the endpoint that reads it."""

    __slots__ = ("answers", "content", "is_sent_on", "prompt", "uncached")

    def __init__(self, uncached: Floats) -> None:
        self.uncached = uncached
        self.prompt: Prompt | None = None
        self.content: EventContent | None = None
        self.answers = False  # something generated has come
        self.is_sent_on = False  # its destination is no endpoint's own address


class PrefillBacklogProducer(
    DataProducer,
    PreRequest,
    ResponseReceived,
    ResponseStreaming,
    ResponseComplete,
    EndpointListener,
    StateKeeper,
    StateDumper,
):
    """Publishes PrefillBacklog: a backlog that grows at each pick and drains as a fluid, and a rate learnt by endpoint.

    At the pick, the endpoint that reads the prompt (that of the profile `prefill`, else the destination) gets the tokens
    that it is not believed to have cached. They drain at the endpoint's rate, a little slower for each sequence that it
    decodes. A first token says that this prompt and all before it are read, and until then that those behind it are not,
    but for one engine step of 2,048 tokens. An error, an abort, a retry elsewhere take back what was not read. The rate is
    the median of what first tokens have shown: those of the whole pool, and the endpoint's own newest 31 as far as they
    differ from it by more than chance. Until the first of them it is `initialPrefillThroughput` (tokens a second). Where
    the proxy sends no response bodies or not all, ends of responses and waiting_requests bound the backlog and teach the
    rate. Where more requests wait than this picker has sent, those of others count as its own do on average. Reads the
    request's PrefixCacheMatchInfo.
    """

    type = "prefill-backlog-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        initial_prefill_throughput: Annotated[float, msgspec.Meta(gt=0)] = 8000.0
        prefix_match_info_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._fleet = handle.fleet
        self._clock = handle.clock
        self._key = data_key(PREFILL_BACKLOG, handle.name)
        self._prefix_key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        self._lines = PrefillLines(handle.fleet.capacity, initial_rate=params.initial_prefill_throughput)
        self._strangers = Strangers(handle.fleet.capacity)
        self._unseen = _SEEN_IN_A_ROW  # first tokens to be seen before all are expected to be
        self._blind = 0  # requests on their way whose first token is not expected to be seen
        self._pages_s: Floats = np.zeros(handle.fleet.capacity)  # by row: the newest page that was looked at
        self._saved: dict[str, SavedRate] = {}
        self._taken_over: set[Endpoint] = set()  # known to the predecessor, and not yet told of

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def consumes_if_published(self) -> Sequence[str]:
        return (self._prefix_key,)

    # --- deciding ------------------------------------------------------------------------------------------------------------

    def produce(self, request: Request, candidates: Candidates) -> None:
        lines = self._lines
        if len(lines.tokens) < self._fleet.capacity:
            lines.fit(self._fleet.capacity)
            self._strangers.fit(self._fleet.capacity)
        now_s = self._clock()
        lines.drain(now_s)
        if self._blind:
            self._look_at_pages()
        self._strangers.look(self._fleet, lines.waiting)
        uncached = self._uncached(request)
        tokens, strangers = lines.tokens.copy(), None
        if self._strangers.any:
            tokens += self._tokens_of_strangers(now_s)
            strangers = self._strangers.requests.copy()
        request.data[self._key] = PrefillBacklog(tokens, lines.speed.copy(), uncached, strangers)
        request.state[self] = _Way(uncached)

    def _tokens_of_strangers(self, now_s: float) -> Floats:
        """What waits there of others: as long as our own prompts are, and drained since the page was read."""
        found = self._strangers
        left = found.waiting * self._lines.usual_tokens - self._lines.speed * (now_s - found.seen_s)
        return np.maximum(left, 0.0)

    def _uncached(self, request: Request) -> Floats:
        tokens = float(request.payload.prompt_tokens)
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        if match is None or not match.total_blocks:
            return np.full(self._fleet.capacity, tokens)
        return np.maximum(tokens - match.held_blocks * match.block_size_tokens, 0.0)

    def _look_at_pages(self) -> None:
        """Where first tokens are not seen, the number of waiting requests says how many prompts are not read."""
        columns = self._fleet.columns
        pages_s, waiting = columns[METRICS_UPDATED_S], columns[WAITING_REQUESTS]
        if len(self._pages_s) < len(pages_s):
            self._pages_s = np.concatenate([self._pages_s, np.zeros(len(pages_s) - len(self._pages_s))])
        fresh = (pages_s > self._pages_s) & (self._lines.tokens > 0.0)
        for row in fresh.nonzero()[0].tolist():
            told = waiting.item(row)
            if told >= 0.0:  # NaN: it is not known
                self._lines.at_most_waiting(row, told, pages_s.item(row) - _PAGE_LAG_S)
        self._pages_s = pages_s.copy()

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        way: _Way | None = request.state.get(self)
        if way is None or way.prompt is not None:
            return
        reader = prefill_endpoint(result)
        endpoint = result.target if reader is None else reader
        way.is_sent_on = reader is not None or bool(result.destination)
        self._send(way, endpoint, watched=request.payload.streaming and not self._unseen)

    def _send(self, way: _Way, endpoint: Endpoint, *, watched: bool) -> None:
        row, uncached = endpoint.row, way.uncached
        if not endpoint.alive:
            return
        # Whole numbers, so that sums return to exactly zero. A retry may go to an endpoint that came after the decision.
        tokens = float(int(uncached.item(row) if row < len(uncached) else uncached.max(initial=0.0)))
        way.prompt = self._lines.add(row, tokens, self._clock(), watched=watched)
        self._strangers.sent(self._fleet, row, self._lines.waiting.item(row))
        self._blind += not watched

    # --- what the response tells ---------------------------------------------------------------------------------------------

    def response_received(self, request: Request, response: Response) -> None:
        way: _Way | None = request.state.get(self)
        if way is None or way.prompt is None or way.answers:
            return
        is_watched = response.body_seen and response.streaming
        line, served = way.prompt.line, response.served_endpoint
        sent_to = self._fleet.endpoints[line.row] if line.row >= 0 else None
        if served and not way.is_sent_on and (sent_to is None or sent_to.host_port != served):
            self._retried(way, served, watched=is_watched)
        elif is_watched != way.prompt.watched:
            self._blind += way.prompt.watched - is_watched
            self._lines.watch(way.prompt, watched=is_watched)

    def _retried(self, way: _Way, served: str, *, watched: bool) -> None:
        """The proxy has tried another endpoint than the first."""
        self._over(way, served=False)
        for endpoint in self._fleet.candidates():
            if endpoint.host_port == served:
                self._send(way, endpoint, watched=watched)

    def response_chunk(self, request: Request, response: Response, chunk: bytes) -> None:
        way: _Way | None = request.state.get(self)
        if way is None or way.prompt is None or way.answers or not 200 <= response.status < 300:
            return
        is_stream = response.streaming
        if is_stream and "content-encoding" not in response.headers:
            if way.content is None:
                way.content = EventContent()
            if not way.content.feed(chunk):
                return
        way.answers = True
        if is_stream:
            self._unseen = max(0, self._unseen - 1)
        # A whole answer comes with its last token, which says nothing about the time of the first.
        self._lines.read(way.prompt, self._clock(), learns=is_stream)

    def response_complete(self, request: Request, response: Response) -> None:
        way: _Way | None = request.state.pop(self, None)
        if way is None or way.prompt is None:
            return
        served = response.termination is Termination.COMPLETE and (200 <= response.status < 300 or not response.status)
        if served and request.payload.streaming and not way.answers:
            self._unseen = _SEEN_IN_A_ROW
        self._over(way, served=served)

    def _over(self, way: _Way, *, served: bool) -> None:
        prompt, way.prompt = way.prompt, None
        if prompt is not None:
            self._blind -= not prompt.watched
            self._lines.end(prompt, self._clock(), served=served)

    # --- endpoints and state -------------------------------------------------------------------------------------------------

    def endpoint_added(self, endpoint: Endpoint) -> None:
        self._lines.fit(self._fleet.capacity)
        self._strangers.fit(self._fleet.capacity)
        if endpoint in self._taken_over:
            self._taken_over.discard(endpoint)
            return
        self._lines.forget(endpoint.row)
        saved = self._saved.pop(endpoint.host_port, None)
        if saved is not None:
            self._lines.remember(endpoint.row, saved.rate, saved.samples)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._lines.forget(endpoint.row)
        self._strangers.forget(endpoint.row)

    def take_over(self, predecessor: Self) -> None:
        """Go on with the very same lines: requests that began before are counted, and leave them when they end."""
        self._lines = predecessor._lines
        self._strangers = predecessor._strangers
        self._saved = predecessor._saved
        self._taken_over = set(self._fleet.candidates())

    def save_state(self) -> Iterable[bytes]:
        rates = {
            endpoint.host_port: SavedRate(line.rate, line.samples)
            for endpoint, line in self._known()
            if line.samples >= _LEAST_SAMPLES_KEPT
        }
        yield msgspec.json.encode(rates)

    def load_state(self, state: memoryview, *, version: int) -> None:
        rates = _decode_rates(state)
        if any(not 0.0 < saved.rate < np.inf or saved.samples < 0 for saved in rates.values()):
            raise ValueError("a rate that is none")
        self._saved = rates

    def _known(self) -> list[tuple[Endpoint, Line]]:
        endpoints = self._fleet.endpoints
        return [(endpoint, line) for line in self._lines if (endpoint := endpoints[line.row]) is not None]

    def dump_state(self) -> object:
        self._lines.drain(self._clock())
        return {
            "sees_first_tokens": not self._unseen,
            "endpoints": {
                endpoint.name: {
                    "backlog_tokens": round(self._lines.tokens.item(line.row)),
                    "pending_tokens": round(line.pending),
                    "pending_requests": len(line.prompts),
                    "decoding_requests": line.decoding,
                    "tokens_per_second": round(line.rate),
                    "samples": line.samples,
                }
                for endpoint, line in self._known()
            },
        }
