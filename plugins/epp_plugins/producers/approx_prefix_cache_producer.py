"""approx-prefix-cache-producer: guesses from past picks which endpoint has which beginning of the prompt in its cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, Self

import msgspec
import numpy as np

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_NUM_BLOCKS,
    PREFIX_MATCH,
    Candidates,
    DataProducer,
    Endpoint,
    EndpointListener,
    Handle,
    PrefixMatch,
    PreRequest,
    Request,
    Response,
    ResponseComplete,
    SchedulingResult,
    StateDumper,
    StateKeeper,
    Termination,
    data_key,
    deprecated,
)
from epp_plugins.cache_calibration import Action, Advice
from epp_plugins.cache_check import CacheCheck
from epp_plugins.prefix_chain import Chain, chain_seed
from epp_plugins.prefix_index import PrefixIndex
from epp_plugins.prefix_snapshot import Snapshot, read_snapshot, snapshot_pieces

BYTES_PER_TOKEN: Final = 4  # of Prompt.data
DEFAULT_CAPACITY: Final = 31_250  # blocks for each endpoint
_MAX_CAPACITY: Final = 1_000_000  # whatever an engine reports
_MOST_BLOCKS: Final = 10_000_000  # over all endpoints: less than 1 GB
_LEAST_TUNED_TOKENS: Final = 64  # keeps the index small where engines use blocks of 16
_TUNE_EVERY_S: Final = 1.0
_LEAST_LIMIT: Final = 8  # blocks; less would tell nothing from nothing
_AWAITED_S: Final = 900.0  # how long a saved endpoint may take to come back
_KEPT_SEEDS: Final = 1024  # clients choose models and salts
_RATIO_BUCKETS: Final = tuple(i / 10 for i in range(11))
_BYTES_BUCKETS: Final = (0, *(2**i for i in range(4, 17)))


class _Prompts(msgspec.Struct):
    """One request's chains, what they match, and the blocks that its pick put into the index and that are not settled.

    `verifiable`: its answer can be compared with the prediction.
    """

    chains: list[Chain]
    match: PrefixMatch
    learned: list[tuple[Endpoint, list[int]]] | None = None  # None before the pick
    verifiable: bool = False


class ApproxPrefixCacheProducer(DataProducer, PreRequest, ResponseComplete, EndpointListener, StateKeeper, StateDumper):
    """Publishes PrefixMatch: matching blocks are counted from the first one on without a gap, summed over all prompts.

    Block size in tokens: with `autoTune` the engines' own (the largest, in a mixed pool), in the smallest multiple that is at
    least 64; where no engine has told it, or without `autoTune`, `blockSizeTokens` exactly as given, else 64. Blocks kept for
    each endpoint: with `autoTune` as many tokens as its engine's cache holds, else `lruCapacityPerServer`, by last use; an
    equal share of `maxBlocks` where that is less. All are counted in blocks of that size; deep in a prompt several are one (see
    epp_plugins.prefix_chain).

    The pick itself is the evidence: each profile's first endpoint is taken to hold the prompts from then on. Taken back when
    the request ends before the engine has read them, unless another request has brought the same blocks. Answers that tell
    cached tokens are compared with the prediction; with `selfCorrect` what is believed of an endpoint shrinks or goes when
    they disprove it (see epp_plugins.cache_calibration). Differs from the Go
    EPP's producer, which counts blocks behind a gap, hashes the rest of a prompt that is no whole block, compares engine
    blocks with index blocks, raises a given block size to 64, and keeps what failed requests left.
    """

    type = "approx-prefix-cache-producer"
    state_version = 2

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        auto_tune: bool = True
        block_size_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
        block_size: Annotated[Annotated[int, msgspec.Meta(ge=1)] | None, deprecated("use blockSizeTokens")] = None
        max_prefix_tokens_to_match: Annotated[int, msgspec.Meta(ge=0)] = 131_072  # for each prompt; 0: see the next
        max_prefix_blocks_to_match: Annotated[
            int, msgspec.Meta(ge=0), deprecated("use maxPrefixTokensToMatch; it has no effect unless that is 0")
        ] = 2048  # 0: no limit
        lru_capacity_per_server: int = DEFAULT_CAPACITY  # blocks; 0 and less mean the default
        max_blocks: Annotated[int, msgspec.Meta(ge=1)] = _MOST_BLOCKS  # over all endpoints
        self_correct: bool = True  # shrink or purge what is believed of an endpoint whose answers disprove it

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, handle.name)
        self._index = PrefixIndex()
        self._given_away = False  # another plugin goes on with the index
        self._fleet = handle.fleet
        self._given_capacity = (
            params.lru_capacity_per_server if params.lru_capacity_per_server > 0 else DEFAULT_CAPACITY
        )
        self._seeds: dict[tuple[str, str], int] = {}
        self._capacities: list[int] = []  # by row
        self._check = CacheCheck(handle)
        self._tune_at_s = -math.inf
        self._awaited: dict[str, bytes] = {}  # saved blocks by address, of endpoints that have not come back
        self._awaited_until_s = -math.inf
        self._taken_over: set[Endpoint] = set()  # known to the predecessor, and not yet told of
        self._tuned = False  # an engine has told the block size
        self._set_block_size(params.block_size_tokens or params.block_size or _LEAST_TUNED_TOKENS)
        metrics = handle.metrics
        labels, values = ("plugin_name", "plugin_type"), (handle.name, self.type)
        self._size = metrics.gauge(
            "llm_d_epp_prefix_indexer_size", "Blocks in the prefix index, over all endpoints", labels
        ).labels(*values)
        self._size_bytes = metrics.gauge("llm_epp_prefix_index_bytes", "Memory that the prefix index takes, roughly")
        self._hit_ratio = metrics.histogram(
            "llm_d_epp_prefix_indexer_hit_ratio",
            "Share of the prompt's blocks that the chosen endpoint was believed to hold",
            labels,
            buckets=_RATIO_BUCKETS,
        ).labels(*values)
        self._hit_bytes = metrics.histogram(
            "llm_d_epp_prefix_indexer_hit_bytes",
            "Bytes of the prompt that the chosen endpoint was believed to hold",
            labels,
            buckets=_BYTES_BUCKETS,
        ).labels(*values)

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def produce(self, request: Request, candidates: Candidates) -> None:
        now_s = self.handle.clock()
        if now_s >= self._tune_at_s:
            self._tune_at_s = now_s + _TUNE_EVERY_S
            self._tune()
        payload = request.payload
        seed = self._seeds.get((request.model, payload.cache_salt)) or self._seed(request.model, payload.cache_salt)
        matched = np.zeros(len(self._fleet.endpoints))
        chains, total = [], 0
        for prompt in payload.prompts:
            chain = Chain(prompt.data, block_bytes=self._block_bytes, seed=seed, limit=self._limit)
            if chain.size:
                self._index.count_matches(chain, matched)
                chains.append(chain)
                total += chain.size
        match = PrefixMatch(matched, total, self._block_size, payload.prompt_tokens, self._check.confidence)
        if chains:
            request.state[self] = _Prompts(chains, match)
        request.data[self._key] = match

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        prompts: _Prompts | None = request.state.get(self)
        if prompts is None or prompts.learned is not None:
            return
        target = result.endpoints[0]
        match, chains = prompts.match, prompts.chains
        blocks = match.matched_blocks.item(target.row)
        self._hit_ratio.observe(blocks / match.total_blocks)
        self._hit_bytes.observe(blocks * self._block_bytes)
        chosen = (target,) if len(result.profiles) == 1 else _chosen(result)
        if len(chosen) == len(chains) == 1 and match.prompt_tokens < (match.total_blocks + 1) * match.block_size_tokens:
            # Blocks that another request is only just bringing may not be there yet, which proves nothing.
            prompts.verifiable = not blocks or self._index.is_settled(target.row, chains[0].last_within(int(blocks)))
        prompts.learned = [(endpoint, self._learn(endpoint.row, chains)) for endpoint in chosen]
        # A long answer need not keep a long prompt's hashes.
        prompts.chains = []
        self._size.set(len(self._index))

    def _learn(self, row: int, chains: list[Chain]) -> list[int]:
        """The blocks that are not settled."""
        capacity = self._capacities[row] if row < len(self._capacities) else self._given_capacity
        insert = self._index.insert
        if len(chains) == 1:
            return insert(row, chains[0].blocks, capacity=capacity)
        return [block for chain in chains for block in insert(row, chain.blocks, capacity=capacity)]

    def response_complete(self, request: Request, response: Response) -> None:
        prompts: _Prompts | None = request.state.pop(self, None)
        if prompts is None or prompts.learned is None:
            return
        served = _was_served(response)
        for endpoint, unsettled in prompts.learned:
            # The row of an endpoint that is gone may be another's by now.
            if unsettled and endpoint.alive:
                if served:
                    self._index.settle(endpoint.row, unsettled)
                else:
                    self._index.undo(endpoint.row, unsettled)
                    self._size.set(len(self._index))
        if not served:
            return
        if len(prompts.learned) > 1:  # prefill elsewhere: nobody says whose tokens were cached
            for endpoint, _ in prompts.learned:
                self._check.spoil(endpoint)
            return
        [(endpoint, _)] = prompts.learned
        advice = self._check.compare(endpoint, prompts.match, response, exact=prompts.verifiable)
        if advice is not None:
            self._follow(endpoint, advice)

    def endpoint_added(self, endpoint: Endpoint) -> None:
        if endpoint in self._taken_over:
            self._taken_over.discard(endpoint)
            return
        self._forget(endpoint)
        saved = self._awaited.pop(endpoint.host_port, None)
        if saved is not None and self.handle.clock() < self._awaited_until_s:
            blocks = np.frombuffer(saved, dtype="<u8").tolist()
            # What the engine's cache holds is not known yet.
            self._index.restore(endpoint.row, blocks, capacity=min(_MAX_CAPACITY, self.params.max_blocks))
            self._report()

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._forget(endpoint)
        self._report()

    def _forget(self, endpoint: Endpoint) -> None:
        self._index.remove(endpoint.row)
        self._check.forget(endpoint)
        self._tune_at_s = -math.inf

    def retire(self) -> Iterator[None]:
        return iter(()) if self._given_away else self._index.give_up()

    def _seed(self, model: str, cache_salt: str) -> int:
        if len(self._seeds) >= _KEPT_SEEDS:
            self._seeds.clear()
        seed = self._seeds[model, cache_salt] = chain_seed(model, cache_salt)
        return seed

    # --- proving it right or wrong -------------------------------------------------------------------------------------------

    def _follow(self, endpoint: Endpoint, advice: Advice) -> None:
        """Do as the endpoint's answers advise, and say why."""
        row, before = endpoint.row, self._index.held_by(endpoint.row)
        if self.params.self_correct:
            if advice.action is Action.PURGE:
                self._index.remove(row)
            elif advice.action is Action.SHRINK:
                limit = max(_LEAST_LIMIT, before // 2)
                self._check.limit(row, limit)
                self._index.shrink(row, limit)
            elif advice.action is Action.GROW:
                wider = 2 * self._capacities[row]
                self._check.limit(row, wider if wider < self._cache_sizes()[row] else None)
            self._tune()
        self._check.tell(endpoint, advice, done=self.params.self_correct, dropped=before - self._index.held_by(row))

    def dump_state(self) -> object:
        return {
            "blocks": len(self._index),
            "bytes": self._index.size_bytes,
            "block_size_tokens": self._block_size,
            "endpoints": {endpoint.name: self._endpoint_state(endpoint.row) for endpoint in self._fleet.candidates()},
        }

    def _endpoint_state(self, row: int) -> dict[str, object]:
        state: dict[str, object] = {
            "blocks": self._index.held_by(row),
            "capacity": self._capacities[row] if row < len(self._capacities) else self._given_capacity,
        }
        return state | self._check.state(row)

    # --- over a restart ------------------------------------------------------------------------------------------------------

    def take_over(self, predecessor: Self) -> None:
        """Go on with the very same index: requests that began before settle or undo what they brought."""
        self._fit_saved_size(predecessor._block_size, tuned=predecessor._tuned)
        self._index, self._check = predecessor._index, predecessor._check
        self._awaited, self._awaited_until_s = predecessor._awaited, predecessor._awaited_until_s
        self._taken_over = set(self._fleet.candidates())
        predecessor._given_away = True

    def save_state(self) -> Iterable[bytes]:
        if self.handle.clock() >= self._awaited_until_s:
            self._awaited.clear()
        waiting = Snapshot(self._block_size, self._tuned, self._awaited)
        return snapshot_pieces(waiting, self._fleet.candidates().endpoints, self._index)

    def load_state(self, state: memoryview, *, version: int) -> None:
        if version < 2:
            raise ValueError("its blocks are all of one size")
        snapshot = read_snapshot(state)
        self._fit_saved_size(snapshot.block_size_tokens, tuned=snapshot.tuned)
        self._awaited = dict(snapshot.blocks)
        self._awaited_until_s = self.handle.clock() + _AWAITED_S

    def _fit_saved_size(self, tokens: int, *, tuned: bool) -> None:
        """Use the size of blocks that are there already. Raises ValueError where parameters ask for another."""
        if tokens != self._block_size:
            if not (tuned and self.params.auto_tune):
                raise ValueError(f"its blocks have {tokens} tokens, not {self._block_size}")
            self._use_block_size(tokens)
        self._tuned = tuned

    # --- fitting the engines -------------------------------------------------------------------------------------------------

    def _tune(self) -> None:
        """Look at what the engines say of their caches, now and then."""
        if self.params.auto_tune:
            sizes = self._fleet.candidates().column(CACHE_BLOCK_SIZE)
            known = sizes[np.isfinite(sizes) & (sizes >= 1)]
            # A saved size counts until an engine tells its own.
            if len(known):
                self._tuned = True
                self._use_block_size(_at_least(_LEAST_TUNED_TOKENS, int(known.max())))
        share = max(1, self.params.max_blocks // max(1, len(self._fleet)))
        self._capacities = [min(capacity, share) for capacity in self._cache_sizes()]
        if self.params.self_correct:
            for row, limit in self._check.limits():
                self._capacities[row] = min(self._capacities[row], limit)
        self._check.fit(len(self._fleet.endpoints))
        self._report()

    def _use_block_size(self, tokens: int) -> None:
        """Blocks of another size never match: those of the old size are dropped as new ones come."""
        if tokens == self._block_size:
            return
        self._awaited.clear()
        self._set_block_size(tokens)

    def _set_block_size(self, tokens: int) -> None:
        self._block_size = tokens
        self._block_bytes = tokens * BYTES_PER_TOKEN
        params = self.params
        if params.max_prefix_tokens_to_match:
            self._limit: int | None = int(params.max_prefix_tokens_to_match) // tokens
        else:
            self._limit = params.max_prefix_blocks_to_match or None

    def _cache_sizes(self) -> list[int]:
        """By row: how many of our blocks the engine's cache holds; what is given where it does not say."""
        if not self.params.auto_tune:
            return [self._given_capacity] * self._fleet.capacity
        columns = self._fleet.columns
        tokens = columns[CACHE_NUM_BLOCKS] * columns[CACHE_BLOCK_SIZE]
        told = np.isfinite(tokens) & (tokens > 0)
        blocks = np.clip(np.where(told, tokens, 0) // self._block_size, 1, _MAX_CAPACITY)
        sizes: list[int] = np.where(told, blocks, self._given_capacity).astype(np.int64).tolist()
        return sizes

    def _report(self) -> None:
        self._size.set(len(self._index))
        self._size_bytes.set(self._index.size_bytes)


def _at_least(least: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `least`."""
    return -(-least // step) * step


def _chosen(result: SchedulingResult) -> Sequence[Endpoint]:
    """The first endpoint of every profile, each once. A custom handler may name a profile that found nothing."""
    seen: list[Endpoint] = []
    for profile in result.profiles.values():
        if profile is not None and profile.endpoints and profile.endpoints[0] not in seen:
            seen.append(profile.endpoints[0])
    return seen


def _was_served(response: Response) -> bool:
    """Did the engine read the prompt? Without a status, as when the proxy sends no response headers, the ending decides."""
    if response.status:
        if response.body_seen and not response.chunks and response.termination is not Termination.COMPLETE:
            return False  # it broke down before the first token
        return 200 <= response.status < 300
    return response.termination is Termination.COMPLETE
