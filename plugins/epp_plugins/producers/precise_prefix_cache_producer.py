"""precise-prefix-cache-producer: which endpoint has which beginning of the prompt cached, as the engines' KV events tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

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
from epp_plugins.kv_events.followers import Followers, Ports
from epp_plugins.kv_events.index import BlockIndex, Found, Source
from epp_plugins.kv_events.keys import TOKEN_BYTES, BlockKeys, EngineKeys, TokenKeys, extras_of
from epp_plugins.kv_events.vllm_hashes import ALGORITHMS, SEEDED, VllmHashes
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


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Parameters are nested as in the Go EPP."""


class TokenProcessor(_Struct, frozen=True):
    """`hashAlgorithm` cbor-fnv and xxh64: keys are made from tokens on both sides, whatever the engines' algorithm, seed and
    block size. The name of an algorithm of vLLM: keys are the engines' own hashes, with `hashSeed` their PYTHONHASHSEED.
    """

    block_size_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    block_size: Annotated[int, msgspec.Meta(ge=0)] = 0
    hash_seed: str = ""
    hash_algorithm: Literal["cbor-fnv", "xxh64", "sha256", "sha256_cbor", "xxhash", "xxhash_cbor"] = "cbor-fnv"


class InMemory(_Struct, frozen=True):
    size: Annotated[int, msgspec.Meta(gt=0)] = 100_000_000  # blocks
    pod_cache_size: Annotated[int, msgspec.Meta(gt=0)] = 10


class CostAware(_Struct, frozen=True):
    size: str = "2GiB"


class Redis(_Struct, frozen=True):
    address: str = "redis://127.0.0.1:6379"


class BlockIndexConfig(_Struct, frozen=True):
    in_memory_config: InMemory = InMemory()
    cost_aware_memory_config: CostAware | None = None
    redis_config: Redis | None = None
    enable_metrics: bool = False
    metrics_logging_interval: int | str = 0


class Backend(_Struct, frozen=True):
    """A tier of the engines' caches, and what a block there counts."""

    name: str
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Indexer(_Struct, frozen=True):
    kv_block_index_config: BlockIndexConfig = msgspec.field(default=BlockIndexConfig(), name="kvBlockIndexConfig")
    kv_cache_backend_configs: tuple[Backend, ...] = msgspec.field(
        default=(Backend("gpu", 1.0), Backend("cpu", 0.8)), name="kvCacheBackendConfigs"
    )


class PodDiscovery(_Struct, frozen=True):
    """`socketPort` 0: every endpoint is asked for its sources (vLLM's /kv_event_sources)."""

    pod_label_selector: str = "llm-d.ai/inference-serving=true"
    pod_namespace: str = ""
    socket_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 5557
    replay_socket_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class KvEvents(_Struct, frozen=True):
    zmq_endpoint: str = ""
    topic_filter: str = "kv@"
    concurrency: Annotated[int, msgspec.Meta(gt=0)] = 4
    engine_type: Literal["vllm", "sglang"] = "vllm"
    discover_pods: bool = True
    pod_discovery_config: PodDiscovery = PodDiscovery()
    max_lag: str = "1s"


class _View(msgspec.Struct, frozen=True):
    """Whom to believe at the moment: the bits of sources by block size, and how far to believe each row (see Trust)."""

    by_size: tuple[tuple[int, int], ...]
    trust: Floats
    told: Floats  # 1 for rows that are believed at all
    unsure: bool  # not all endpoints are believed in full


class _Expected(msgspec.Struct):
    """Blocks that a pick has promised. `over`: they have been taken back."""

    until_s: float
    added: list[tuple[int, int]]
    over: bool = False


class _Asked(msgspec.Struct):
    """What one request's prompts are in blocks: chains by block size."""

    chains: dict[int, list[list[int]]]
    told: PrefixMatch | None = None  # what engines have told, whether it was published or not
    expected: _Expected | None = None
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
    `podCacheSize` (holders of a block are not limited), `concurrency`, `enableMetrics`, `metricsLoggingInterval`,
    `podLabelSelector`, `podNamespace`, costAwareMemoryConfig and redisConfig (the index is in memory); `blockSizeTokens`
    counts only until an engine has told its own. Differs from the Go EPP's producer, which cuts sums of weights to whole
    blocks, keeps ten holders of a block, and neither notices restarts without a replay socket nor believes a replay whose
    beginning is gone.
    """

    type = "precise-prefix-cache-producer"

    class Params(_Struct, frozen=True):
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
        self._keys = _make_keys(params.token_processor_config)
        self._index = _make_index(params.indexer_config)
        processor = params.token_processor_config
        self._unsaid_block = processor.block_size_tokens or processor.block_size or _UNSAID_BLOCK
        self._speculative_s = seconds(params.speculative_ttl, parameter="speculativeTTL")
        max_lag_s = seconds(params.kv_events_config.max_lag, parameter="kvEventsConfig.maxLag")
        self._followers = Followers(handle, self._index, self._keys, max_lag_s=max_lag_s, changed=self._changed)
        self._ports = _ports_of(params.kv_events_config)
        self._view: _View | None = None
        self._expected: deque[_Expected] = deque()
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
            "Share of the prompt's blocks that the chosen endpoint held",
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
        self._drop_expected()
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
        if match.total_blocks:
            self._hit_ratio.observe(match.matched_blocks.item(target.row) / match.total_blocks)
        told = asked.told
        # Where several endpoints work on a request, its answer does not say whose cache was used.
        if len(result.profiles) == 1 and told is not None and told.told is not None and told.told.item(target.row):
            asked.sent = target, told
        if self.params.speculative_indexing:
            self._speculate(asked, result)
        asked.chains = {}

    def response_complete(self, request: Request, response: Response) -> None:
        asked: _Asked | None = request.state.pop(self, None)
        if asked is None:
            return
        if not 200 <= response.status < 300:
            if asked.expected is not None:
                self._take_back(asked.expected)
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
        config = self.params.kv_events_config
        if self._ports is not None:
            return
        if not config.zmq_endpoint:
            self.handle.log.warning(
                "plugin %s: discoverPods is off and there is no zmqEndpoint: no KV events are read", self.name
            )
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

    # --- speculation -------------------------------------------------------------------------------------------------

    def _speculate(self, asked: _Asked, result: SchedulingResult) -> None:
        added: list[tuple[int, int]] = []
        for profile in result.profiles.values():
            if profile is not None and profile.endpoints:
                added += self._expect(profile.endpoints[0], asked)
        if added:
            asked.expected = _Expected(self.handle.clock() + self._speculative_s, added)
            self._expected.append(asked.expected)

    def _expect(self, endpoint: Endpoint, asked: _Asked) -> list[tuple[int, int]]:
        by_size: dict[int, list[Source]] = {}
        for publisher in self._followers.of(endpoint):
            by_size.setdefault(publisher.cache.block_size, []).append(publisher.cache.source)
        added: list[tuple[int, int]] = []
        for size, sources in by_size.items():
            for chain in asked.chains.get(size, ()):
                added += self._index.expect(sources, chain)
        return added

    def _drop_expected(self) -> None:
        now = self.handle.clock()
        while self._expected and (self._expected[0].over or self._expected[0].until_s <= now):
            self._take_back(self._expected.popleft())

    def _take_back(self, expected: _Expected) -> None:
        if not expected.over:
            expected.over = True
            self._index.forget(expected.added)


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


def _make_keys(config: TokenProcessor) -> BlockKeys:
    if config.hash_algorithm not in ALGORITHMS:
        return TokenKeys()
    if not config.hash_seed and config.hash_algorithm not in SEEDED:
        raise ConfigError(
            f"tokenProcessorConfig.hashSeed: {config.hash_algorithm} has another seed in every engine; set PYTHONHASHSEED in "
            "all of them, and here, or leave hashAlgorithm out"
        )
    return EngineKeys(VllmHashes(config.hash_algorithm, config.hash_seed))


def _make_index(config: Indexer) -> BlockIndex:
    tiers: dict[str, float] = {}
    for i, backend in enumerate(config.kv_cache_backend_configs):
        name = backend.name.lower()
        if not name or name in tiers:
            raise ConfigError(
                f"indexerConfig.kvCacheBackendConfigs[{i}].name: expected another tier, got {backend.name!r}"
            )
        tiers[name] = backend.weight
    if not tiers:
        raise ConfigError("indexerConfig.kvCacheBackendConfigs: there has to be at least one")
    return BlockIndex(tiers, capacity=config.kv_block_index_config.in_memory_config.size)


def _ports_of(config: KvEvents) -> Ports | None:
    if not config.discover_pods:
        return None
    pods: Any = config.pod_discovery_config
    return Ports(pods.socket_port, pods.replay_socket_port)
