"""burst-prefix-cache-producer: requests that come at the same time and share prompts are sent to the same endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_REQUESTS,
    PREFIX_MATCH,
    Candidates,
    DataProducer,
    Handle,
    PrefixMatch,
    Request,
    data_key,
)
from epp_plugins.burst import Member, Rules, assign
from epp_plugins.prefix_chain import block_chain, chain_seed

_BYTES_PER_TOKEN: Final = 4  # of Prompt.data
_DEFAULT_BLOCKS: Final = 2048
_GRACE_S: Final = 0.3


class _Batch:
    """Requests of one window. `ends_s`: when they are assigned, on the handle's clock."""

    __slots__ = ("assigned", "ends_s", "members")

    def __init__(self, ends_s: float) -> None:
        self.ends_s = ends_s
        self.members: list[Member] = []
        self.assigned = False


class BurstPrefixCacheProducer(DataProducer):
    """Publishes PrefixMatch: all blocks for the endpoint that a burst's assignment gave the request, none elsewhere.

    A prompt of at least one block waits until `windowDurationMs` after the first of its window; then all of them, at most
    `maxBatchSize`, are assigned together (see `burst.assign`). Requests that share no prompt match nowhere. Every request
    pays up to the window of its time to first token: use it for batch work such as rollouts. Same rule as the Go EPP's
    burst-prefix-cache-producer, which makes prompts of less than a block wait as well.
    """

    type = "burst-prefix-cache-producer"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        window_duration_ms: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 100.0
        max_per_replica: int = -1  # 0 and less: no limit
        block_size_tokens: Annotated[int, msgspec.Meta(ge=1)] = 64
        max_prefix_tokens_to_match: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: 2048 blocks
        min_colocate_blocks: Annotated[int, msgspec.Meta(ge=0)] = 0
        max_batch_size: Annotated[int, msgspec.Meta(ge=1)] = 1000
        balance_by: Literal["requests", "tokens"] = "requests"

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, handle.name)
        self._window_s = params.window_duration_ms / 1000
        self.timeout_s = self._window_s + _GRACE_S
        tokens = params.max_prefix_tokens_to_match
        self._limit = max(1, tokens // params.block_size_tokens) if tokens else _DEFAULT_BLOCKS
        self._rules = Rules(
            max_per_replica=params.max_per_replica if params.max_per_replica > 0 else None,
            least_shared_blocks=params.min_colocate_blocks,
            balance_tokens=params.balance_by == "tokens",
        )
        self._open: _Batch | None = None

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def produce(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
        chain = self._chain(request)
        member = Member(chain, candidates.endpoints)
        if not chain:
            self._publish(request, member)
            return None
        batch = self._open
        if batch is None:
            batch = self._open = _Batch(self.handle.clock() + self._window_s)
        batch.members.append(member)
        if len(batch.members) >= self.params.max_batch_size:
            self._open = None
        return self._wait(request, member, batch)

    async def _wait(self, request: Request, member: Member, batch: _Batch) -> None:
        try:
            if not batch.assigned:
                await self.handle.sleep(max(0.0, batch.ends_s - self.handle.clock()))
        except BaseException:
            # The client has left: nobody shares a prompt with it any more.
            if not batch.assigned:
                batch.members.remove(member)
            raise
        if not batch.assigned:
            self._assign(batch)
        self._publish(request, member)

    def _assign(self, batch: _Batch) -> None:
        batch.assigned = True
        if self._open is batch:
            self._open = None
        everyone = self.handle.fleet.candidates()
        in_flight = dict(zip(everyone, everyone.column(IN_FLIGHT_REQUESTS).tolist(), strict=True))
        assign(batch.members, in_flight, self._rules)

    def _publish(self, request: Request, member: Member) -> None:
        matched = np.zeros(self.handle.fleet.capacity)
        blocks = len(member.chain)
        if member.assigned is not None and member.assigned.alive:
            matched[member.assigned.row] = blocks
        request.data[self._key] = PrefixMatch(matched, blocks, self.params.block_size_tokens)

    def _chain(self, request: Request) -> list[int]:
        """The hashes of all prompts' blocks, one prompt's after another's."""
        seed = chain_seed(request.model, request.payload.cache_salt)
        chain: list[int] = []
        size = self.params.block_size_tokens * _BYTES_PER_TOKEN
        for prompt in request.payload.prompts:
            blocks = block_chain(prompt.data, block_bytes=size, seed=seed, limit=self._limit - len(chain))
            chain += blocks
            seed = blocks[-1] if blocks else seed
        return chain
