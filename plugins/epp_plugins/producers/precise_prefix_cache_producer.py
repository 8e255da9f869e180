"""precise-prefix-cache-producer: which endpoint has which beginning of the prompt cached, as the engines' KV events tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from epp.api import (
    PREFIX_MATCH,
    TOKENIZED_PROMPT,
    Background,
    Candidates,
    ConfigError,
    DataProducer,
    Endpoint,
    EndpointListener,
    Floats,
    Handle,
    OutsideError,
    PrefixMatch,
    PreRequest,
    Prompt,
    Request,
    Response,
    ResponseComplete,
    SchedulingResult,
    StateDumper,
    TokenizedPrompt,
    data_key,
)
from epp_plugins.cache_calibration import Action
from epp_plugins.cache_check import CacheCheck
from epp_plugins.durations import seconds
from epp_plugins.kv_events.feed import Trust
from epp_plugins.kv_events.followers import Followers
from epp_plugins.kv_events.index import Found, Source
from epp_plugins.kv_events.keys import TOKEN_BYTES, extras_of
from epp_plugins.kv_events.parameters import Indexer, KvEvents, TokenProcessor
from epp_plugins.kv_events.speculation import Promise, Speculation
from epp_plugins.prefix_choice import PrefixChoice, guessed_blocks

_UNSAID_BLOCK: Final = 16  # tokens; what a match is counted in before an engine has told
_RATIO_BUCKETS: Final = tuple(i / 10 for i in range(11))
_COUNTERS: Final = (
    ("kv_cache_index_admissions_total", "Blocks that engines told they hold"),
    ("kv_cache_index_evictions_total", "Blocks that engines told they have dropped"),
    ("kv_events_messages_total", "Messages of KV events that were applied"),
    ("kv_events_malformed_total", "Messages and events that could not be read"),
    ("kv_events_gaps_total", "Runs of missing messages"),
    ("kv_events_replays_total", "Replays of missed messages"),
    ("kv_events_replays_failed_total", "Replays that brought nothing, or not all"),
    ("kv_events_restarts_total", "Engines that began to count from 0 again"),
    ("kv_events_left_out_total", "Events of blocks that no prompt can match, or whose beginning is not known"),
)


class _View(msgspec.Struct, frozen=True):
    """Whom to believe at the moment: the bits of sources by block size, and how far to believe each row (see Trust)."""

    by_size: tuple[tuple[int, int], ...]
    trust: Floats
    told: Floats  # 1 for rows that are believed at all
    unsure: bool  # not all endpoints are believed in full


class _Asked(msgspec.Struct):
    """What one request's prompts are in blocks: chains by block size."""

    chains: dict[int, list[list[int]]]
    told: PrefixMatch | None = None  # what engines have told, whether it was published or not
    promise: Promise | None = None
    sent: tuple[Endpoint, PrefixMatch] | None = None  # what was told of the endpoint that answers; None: nothing was


class PrecisePrefixCacheProducer(DataProducer, PreRequest, ResponseComplete, EndpointListener, Background, StateDumper):
    """Publishes PrefixMatch from what the engines tell of their caches (KV events of vLLM and SGLang over ZeroMQ).

    Counts the leading blocks that an endpoint holds without a gap, each by the weight of its tier. Endpoints whose events are
    missing, late (`maxLag`), or cannot be had count what `fallbackProducerName` guesses; so does every endpoint for a request
    without tokens (see token-producer). Where only the latest events are known the larger number counts. With
    `speculativeIndexing` a pick lets its blocks count as held for `speculativeTTL`, or until the request fails. Answers that
    tell cached tokens are compared with what was told before; what proves wrong is dropped, and where the guess proves right
    more often it counts.

    Every endpoint's socket is `socketPort` plus its rank, or what the server names where that is 0; with `zmqEndpoint` and
    without `discoverPods`, engines connect to one socket here, and their topics name them. Accepted without effect:
    `podCacheSize` (holders of a block are not limited), `engineType` (events of both are told by their form),
    `concurrency`, `enableMetrics`, `metricsLoggingInterval`, `podLabelSelector`, `podNamespace`, costAwareMemoryConfig and
    redisConfig (the index is in memory); `blockSizeTokens` counts only until an engine has told its own. Differs from the Go
    EPP's producer, which cuts sums of weights to whole blocks, keeps ten holders of a block, and neither notices restarts
    without a replay socket nor believes a replay whose beginning is gone.
    """

    type = "precise-prefix-cache-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        token_processor_config: TokenProcessor = TokenProcessor()
        indexer_config: Indexer = Indexer()
        kv_events_config: KvEvents = msgspec.field(default=KvEvents(), name="kvEventsConfig")
        speculative_indexing: bool = False
        speculative_ttl: str = msgspec.field(default="2s", name="speculativeTTL")
        token_producer_name: str = ""
        fallback_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, handle.name)
        self._tokens_key = data_key(TOKENIZED_PROMPT, params.token_producer_name)
        self._guess_key = data_key(PREFIX_MATCH, params.fallback_producer_name)
        if self._guess_key == self._key:
            raise ConfigError("fallbackProducerName: is this plugin itself")
        processor = params.token_processor_config
        self._keys = processor.keys()
        self._index = params.indexer_config.index()
        self._unsaid_block = processor.block_size_tokens or processor.block_size or _UNSAID_BLOCK
        lifetime_s = seconds(params.speculative_ttl, parameter="speculativeTTL")
        self._speculation = Speculation(self._index, handle.clock, lifetime_s)
        max_lag_s = seconds(params.kv_events_config.max_lag, parameter="kvEventsConfig.maxLag")
        self._followers = Followers(handle, self._index, self._keys, max_lag_s=max_lag_s, changed=self._changed)
        self._ports = params.kv_events_config.ports()
        self._view: _View | None = None
        self._warned_of_tokens = False
        self._check = CacheCheck(handle)
        self._choice = PrefixChoice(self._check)
        metrics = handle.metrics
        self._size = metrics.gauge(
            "kv_cache_index_size", "Blocks in the precise prefix index, over all endpoints and tiers"
        )
        self._believed = metrics.gauge("kv_events_publishers", "Publishers of KV events whose word is believed")
        self._lookups = metrics.counter("kv_cache_index_lookup_requests_total", "Requests whose prompts were looked up")
        self._hits = metrics.counter("kv_cache_index_lookup_hits_total", "Requests of which an endpoint held a block")
        self._hit_ratio = metrics.histogram(
            "kv_cache_index_hit_ratio",
            "Share of the prompt's blocks that the chosen endpoint held, where that is not guessed",
            buckets=_RATIO_BUCKETS,
        )
        self._counters = [metrics.counter(name, words) for name, words in _COUNTERS]
        self._counted = [0] * len(_COUNTERS)

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def consumes(self) -> Sequence[str]:
        return (self._tokens_key, self._guess_key)

    # --- requests ----------------------------------------------------------------------------------------------------

    def produce(self, request: Request, candidates: Candidates) -> None:
        guess: PrefixMatch | None = request.data.get(self._guess_key)
        prompt: TokenizedPrompt | None = request.data.get(self._tokens_key)
        if prompt is None or not prompt.prompts or not all(p.tokenized for p in prompt.prompts):
            self._publish_guess(request, prompt, guess)
            return
        self._speculation.expire()
        view = self._current()
        unit = min((size for size, _ in view.by_size), default=guess.block_size_tokens if guess else self._unsaid_block)
        asked = _Asked({})
        found = Found(self.handle.fleet.capacity)
        for size, sources in view.by_size:
            chains = self._chains(request, prompt, size)
            if chains is None:
                self._publish_guess(request, prompt, guess)
                return
            asked.chains[size] = chains
            self._look_up(chains, sources, found, scale=size / unit)
        total = sum([_count(p, unit) for p in prompt.prompts])
        self._lookups.inc()
        if found.any:
            self._hits.inc()
        if view.unsure:
            _fill_in(found, view.trust, guess, total)
        request.state[self] = asked
        asked.told = PrefixMatch(
            found.matched,
            total,
            unit,
            sum([_count(p, 1) for p in prompt.prompts]),
            self._check.confidence,
            cached_blocks=found.blocks,
            told=view.told,
        )
        request.data[self._key] = self._choice.choose(asked.told, guess)

    def _look_up(self, chains: list[list[int]], sources: int, found: Found, *, scale: float) -> None:
        """Add to `found`, in blocks of another size, what `sources` hold of one request's prompts."""
        if scale == 1.0 and not found.any:
            for chain in chains:
                self._index.match(chain, sources, found)
            return
        of_size = Found(len(found.blocks))
        for chain in chains:
            self._index.match(chain, sources, of_size)
        found.any |= of_size.any
        np.maximum(found.blocks, of_size.blocks * scale, out=found.blocks)
        np.maximum(found.matched, of_size.matched * scale, out=found.matched)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        match: PrefixMatch | None = request.data.get(self._key)
        asked: _Asked | None = request.state.get(self)
        if match is None or asked is None:
            return
        target = result.target
        if match.total_blocks and match.told is not None and match.told.item(target.row):
            self._hit_ratio.observe(match.matched_blocks.item(target.row) / match.total_blocks)
        told = asked.told
        # Where several endpoints work on a request, its answer does not say whose cache was used.
        if len(result.profiles) == 1 and told is not None and told.told is not None and told.told.item(target.row):
            asked.sent = target, told
        if self.params.speculative_indexing:
            asked.promise = self._speculation.promise(self._promised(asked, result))
        asked.chains = {}

    def response_complete(self, request: Request, response: Response) -> None:
        asked: _Asked | None = request.state.pop(self, None)
        if asked is None:
            return
        if not 200 <= response.status < 300:
            if asked.promise is not None:
                self._speculation.take_back(asked.promise)
            return
        if asked.sent is not None:
            self._compare(*asked.sent, response)
        elif request.result is not None:
            for profile in request.result.profiles.values():
                if profile is not None and profile.endpoints:
                    self._check.spoil(profile.endpoints[0])

    def _compare(self, endpoint: Endpoint, match: PrefixMatch, response: Response) -> None:
        """What the engine says it had cached, with what its events said before."""
        advice = self._check.compare(endpoint, match, response, exact=True)
        if advice is None:
            return
        before = len(self._index)
        if advice.action is Action.PURGE:
            for publisher in self._followers.of(endpoint):
                publisher.feed.disbelieve()
            self._changed()
        self._check.tell(endpoint, advice, done=advice.action is Action.PURGE, dropped=before - len(self._index))

    # --- endpoints ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        config, index = self.params.kv_events_config, self.params.indexer_config.kv_block_index_config
        warn = self.handle.log.warning
        if index.redis_config is not None or index.cost_aware_memory_config is not None:
            warn("plugin %s: redisConfig and costAwareMemoryConfig have no effect: the index is in memory", self.name)
        if self._ports is not None:
            if config.zmq_endpoint:
                warn(
                    "plugin %s: zmqEndpoint has no effect while discoverPods is on; set discoverPods: false", self.name
                )
            return
        if not config.zmq_endpoint:
            warn("plugin %s: discoverPods is off and there is no zmqEndpoint: no KV events are read", self.name)
            return
        try:
            self._followers.listen(config.zmq_endpoint, config.topic_filter.encode())
        except OutsideError as error:
            self.handle.log.error("plugin %s: kvEventsConfig.zmqEndpoint: %s", self.name, error)

    def stop(self) -> None:
        self._followers.close()

    def endpoint_added(self, endpoint: Endpoint) -> None:
        self._check.forget(endpoint)
        self._followers.follow(endpoint, self._ports)
        self._changed()

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._check.forget(endpoint)
        self._followers.forget(endpoint)

    def dump_state(self) -> object:
        return {
            "blocks": len(self._index),
            "blocks_left_out": self._index.dropped,
            "publishers": [
                {
                    "name": p.name,
                    "events": p.address.events,
                    "replay": p.address.replay,
                    "trust": p.trust.name.lower(),
                    "last_message": p.feed.last,
                    "delay_s": round(p.feed.delay_s, 3),
                    "block_size_tokens": p.cache.block_size,
                    "blocks": self._index.held_by(p.cache.source),
                    **self._check.state(p.cache.source.row),
                }
                for p in self._followers.publishers()
            ],
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._view = None
        counts, tally = self._followers.counts, self._followers.tally
        values = (
            tally.stored,
            tally.removed,
            counts.applied,
            counts.malformed + tally.malformed,
            counts.gaps,
            counts.replays,
            counts.replays_failed,
            counts.restarts,
            tally.left_out,
        )
        for i, value in enumerate(values):
            if value != self._counted[i]:
                self._counters[i].inc(value - self._counted[i])
                self._counted[i] = value
        self._size.set(len(self._index))

    def _current(self) -> _View:
        capacity = self.handle.fleet.capacity
        if self._view is None or len(self._view.trust) != capacity:
            self._view = self._look(capacity)
            self._check.fit(capacity)
            self._believed.set(self._followers.trusted())
        return self._view

    def _look(self, capacity: int) -> _View:
        bits: dict[int, int] = {}
        by_row: dict[int, list[Trust]] = {}
        for publisher in self._followers.publishers():
            source, believed = publisher.cache.source, publisher.trust
            by_row.setdefault(source.row, []).append(believed)
            size = publisher.cache.block_size
            if size and believed is not Trust.NONE:
                bits[size] = bits.get(size, 0) | source.bit
        trust = np.zeros(capacity)
        for row, believed_of in by_row.items():
            # Where one of several ranks is not known, what the others hold is a part of the truth.
            trust[row] = min(believed_of) or (Trust.SOME if any(believed_of) else Trust.NONE)
        everyone = trust[self.handle.fleet.candidates().rows]
        return _View(
            tuple(sorted(bits.items())), trust, (trust > 0).astype(np.float64), bool((everyone < Trust.ALL).any())
        )

    def _chains(self, request: Request, prompt: TokenizedPrompt, size: int) -> list[list[int]] | None:
        adapter = request.model if request.model in self._followers.tally.adapters else ""
        salt = request.payload.cache_salt
        chains = []
        for number, one in enumerate(prompt.prompts):
            media = [m for m in prompt.media if m.identifier and m.prompt == number]
            extras = extras_of(salt, media, size) if salt or media else {}
            chain = self._keys.of_prompt(one.data, size, adapter=adapter, extras=extras)
            if chain is None:
                return None
            chains.append(chain)
        return chains

    def _publish_guess(self, request: Request, prompt: TokenizedPrompt | None, guess: PrefixMatch | None) -> None:
        if prompt is not None and prompt.prompts and not self._warned_of_tokens and not prompt.prompts[0].tokenized:
            self._warned_of_tokens = True
            self.handle.log.warning(
                "plugin %s: a request has no tokens, and %s is used for it; a token-producer with vllm or local brings them",
                self.name,
                self._guess_key.partition("/")[2],
            )
        if guess is not None:
            none = np.zeros(len(guess.matched_blocks))
            request.data[self._key] = PrefixMatch(
                guess.matched_blocks, guess.total_blocks, guess.block_size_tokens, told=none
            )

    def _promised(self, asked: _Asked, result: SchedulingResult) -> Iterator[tuple[list[Source], list[int]]]:
        """What each profile's first endpoint is about to hold."""
        for profile in result.profiles.values():
            if profile is None or not profile.endpoints:
                continue
            by_size: dict[int, list[Source]] = {}
            for publisher in self._followers.of(profile.endpoints[0]):
                by_size.setdefault(publisher.cache.block_size, []).append(publisher.cache.source)
            for size, sources in by_size.items():
                for chain in asked.chains.get(size, ()):
                    yield sources, chain


def _fill_in(found: Found, trust: Floats, guess: PrefixMatch | None, total: int) -> None:
    """Where not everything is known the guess counts, alone or where it is larger."""
    if guess is None or not guess.total_blocks or len(guess.matched_blocks) != len(trust):
        return
    guessed = guessed_blocks(guess, total)
    unsure = trust < float(Trust.ALL)
    np.maximum(found.matched, guessed, out=found.matched, where=unsure)
    np.maximum(found.blocks, guessed, out=found.blocks, where=unsure)


def _count(prompt: Prompt, block_size: int) -> int:
    return len(prompt.data) // (block_size * TOKEN_BYTES)
