"""approx-prefix-cache-producer: guesses from past picks which endpoint has which beginning of the prompt in its cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

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
    Termination,
    data_key,
)
from epp_plugins.prefix_index import PrefixIndex, block_chain, chain_seed

BYTES_PER_TOKEN: Final = 4  # of Prompt.data
DEFAULT_CAPACITY: Final = 31_250  # blocks for each endpoint
_MAX_CAPACITY: Final = 1_000_000  # whatever an engine reports
_LEAST_TUNED_TOKENS: Final = 64  # keeps the index small where engines use blocks of 16
_TUNE_EVERY_S: Final = 1.0
_RATIO_BUCKETS: Final = tuple(i / 10 for i in range(11))
_BYTES_BUCKETS: Final = (0, *(2**i for i in range(4, 17)))


class _Prompts:
    """One request's chains, and the blocks that its pick put into the index."""

    __slots__ = ("block_size", "chains", "learned", "total")

    def __init__(self, chains: list[list[int]], total: int, block_size: int) -> None:
        self.chains = chains
        self.total = total
        self.block_size = block_size
        self.learned: list[tuple[Endpoint, list[int]]] = []


class ApproxPrefixCacheProducer(DataProducer, PreRequest, ResponseComplete, EndpointListener):
    """Publishes PrefixMatch: matching blocks are counted from the first one on without a gap, summed over all prompts.

    Block size in tokens: with `autoTune` the engines' own (the largest, in a mixed pool), in the smallest multiple that is at
    least 64; where no engine has told it, or without `autoTune`, `blockSizeTokens` exactly as given, else 64. Blocks kept for
    each endpoint: with `autoTune` as many tokens as its engine's cache holds, else `lruCapacityPerServer`, by last use.

    The pick itself is the evidence: each profile's first endpoint is taken to hold the prompts from then on. Taken back when
    the request fails before a successful response. Differs from the Go EPP's producer, which counts blocks behind a gap,
    hashes the rest of a prompt that is no whole block, compares engine blocks with index blocks, raises a given block size to
    64, and keeps what failed requests left.
    """

    type = "approx-prefix-cache-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        auto_tune: bool = True
        block_size_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
        block_size: Annotated[int, msgspec.Meta(ge=1)] | None = None  # deprecated name of the above
        max_prefix_tokens_to_match: Annotated[int, msgspec.Meta(ge=0)] = 131_072  # for each prompt; 0: see the next
        max_prefix_blocks_to_match: Annotated[int, msgspec.Meta(ge=0)] = 2048  # deprecated; 0: no limit
        lru_capacity_per_server: int = DEFAULT_CAPACITY  # blocks; 0 and less mean the default

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, handle.name)
        self._index = PrefixIndex()
        self._given_size = params.block_size_tokens or params.block_size or _LEAST_TUNED_TOKENS
        self._given_capacity = (
            params.lru_capacity_per_server if params.lru_capacity_per_server > 0 else DEFAULT_CAPACITY
        )
        self._tuned_size = self._given_size
        self._tune_at_s = -math.inf
        metrics = handle.metrics
        self._size = metrics.gauge(
            "inference_extension_prefix_indexer_size", "Blocks in the prefix index, over all endpoints"
        )
        self._hit_ratio = metrics.histogram(
            "inference_extension_prefix_indexer_hit_ratio",
            "Share of the prompt's blocks that the chosen endpoint was believed to hold",
            buckets=_RATIO_BUCKETS,
        )
        self._hit_bytes = metrics.histogram(
            "inference_extension_prefix_indexer_hit_bytes",
            "Bytes of the prompt that the chosen endpoint was believed to hold",
            buckets=_BYTES_BUCKETS,
        )

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def produce(self, request: Request, candidates: Candidates) -> None:
        block_size = self._block_size()
        payload = request.payload
        limit = self._block_limit(block_size)
        seed = chain_seed(request.model, payload.cache_salt)
        matched = np.zeros(self.handle.fleet.capacity)
        chains, total = [], 0
        for prompt in payload.prompts:
            chain = block_chain(prompt.data, block_bytes=block_size * BYTES_PER_TOKEN, seed=seed, limit=limit)
            if chain:
                self._index.count_matches(chain, matched)
                chains.append(chain)
                total += len(chain)
        request.state[self] = _Prompts(chains, total, block_size)
        request.data[self._key] = PrefixMatch(matched, total, block_size)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        prompts: _Prompts | None = request.state.get(self)
        if prompts is None or not prompts.chains:
            return
        match: PrefixMatch = request.data[self._key]
        blocks = match.matched_blocks.item(result.target.row)
        self._hit_ratio.observe(blocks / prompts.total)
        self._hit_bytes.observe(blocks * prompts.block_size * BYTES_PER_TOKEN)
        for endpoint in _chosen(result):
            capacity = self._capacity(endpoint, prompts.block_size)
            added = []
            for chain in prompts.chains:
                added += self._index.insert(endpoint.row, chain, capacity=capacity)
            prompts.learned.append((endpoint, added))
        # A long answer need not keep a long prompt's hashes.
        prompts.chains = []
        self._size.set(len(self._index))

    def response_complete(self, request: Request, response: Response) -> None:
        prompts: _Prompts | None = request.state.pop(self, None)
        if prompts is None or _was_served(response):
            return
        for endpoint, added in prompts.learned:
            if endpoint.alive:
                self._index.discard(endpoint.row, added)
        self._size.set(len(self._index))

    def endpoint_added(self, endpoint: Endpoint) -> None:
        self._index.remove(endpoint.row)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._index.remove(endpoint.row)
        self._size.set(len(self._index))

    def _block_size(self) -> int:
        if not self.params.auto_tune:
            return self._given_size
        now_s = self.handle.clock()
        if now_s >= self._tune_at_s:
            self._tune_at_s = now_s + _TUNE_EVERY_S
            sizes = self.handle.fleet.candidates().column(CACHE_BLOCK_SIZE)
            known = sizes[np.isfinite(sizes) & (sizes >= 1)]
            self._tuned_size = _at_least(_LEAST_TUNED_TOKENS, int(known.max())) if len(known) else self._given_size
        return self._tuned_size

    def _block_limit(self, block_size: int) -> int | None:
        params = self.params
        if params.max_prefix_tokens_to_match:
            return int(params.max_prefix_tokens_to_match) // block_size
        return params.max_prefix_blocks_to_match or None

    def _capacity(self, endpoint: Endpoint, block_size: int) -> int:
        if not self.params.auto_tune:
            return self._given_capacity
        columns = self.handle.fleet.columns
        tokens = columns[CACHE_NUM_BLOCKS].item(endpoint.row) * columns[CACHE_BLOCK_SIZE].item(endpoint.row)
        if not 0 < tokens < math.inf:
            return self._given_capacity
        return max(1, min(int(tokens) // block_size, _MAX_CAPACITY))


def _at_least(least: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `least`."""
    return -(-least // step) * step


def _chosen(result: SchedulingResult) -> Iterator[Endpoint]:
    """The first endpoint of every profile, each once. A custom handler may name a profile that found nothing."""
    seen: list[Endpoint] = []
    for profile in result.profiles.values():
        if profile is not None and profile.endpoints and profile.endpoints[0] not in seen:
            seen.append(profile.endpoints[0])
            yield profile.endpoints[0]


def _was_served(response: Response) -> bool:
    """Did the engine take the prompt in? Without a status, as when the proxy sends no response headers, the ending decides."""
    if response.status:
        return 200 <= response.status < 300
    return response.termination is Termination.COMPLETE
