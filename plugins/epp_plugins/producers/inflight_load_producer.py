"""inflight-load-producer: counts requests and tokens on their way, endpoint by endpoint, from the pick to the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_REQUESTS,
    IN_FLIGHT_TOKENS,
    PREFIX_MATCH,
    Candidates,
    DataProducer,
    Endpoint,
    Fleet,
    Floats,
    Handle,
    InFlightLoad,
    PrefixMatch,
    PreRequest,
    Request,
    Response,
    ResponseComplete,
    ResponseStreaming,
    SchedulingResult,
    data_key,
)

# One key for all instances: the columns are the fleet's, so a request is counted once however many producers there are.
_CHARGES: Final = "inflight-load-producer/charges"


class _Charges:
    """What one request has added to the columns: the destination's share, and the other profiles'."""

    __slots__ = ("others", "output_tokens", "prompt_tokens", "target")

    def __init__(self, target: Endpoint, prompt_tokens: float, output_tokens: float) -> None:
        self.target = target
        self.prompt_tokens = prompt_tokens  # 0 once the prompt has been read
        self.output_tokens = output_tokens
        self.others: list[tuple[Endpoint, float]] = []


class InflightLoadProducer(DataProducer, PreRequest, ResponseStreaming, ResponseComplete):
    """Publishes InFlightLoad, and keeps the columns in_flight_requests and in_flight_tokens.

    At the pick, the first endpoint of every profile gets 1 request and the prompt's tokens that it is not believed to have
    cached. At the first piece of the response body the prompt has been read: its tokens go, and so does all that profiles
    other than the destination's were charged. The rest goes when the request ends, however it ends. What an endpoint that has
    left the fleet was charged is gone with its row.

    With `addEstimatedOutputTokens` the destination is charged prompt tokens * `outputRatio` more, at most the tokens that the
    client asked for and `maxEstimatedOutputTokens` (0: no limit). `syncCrossReplicaState` is accepted and has no effect.
    Counts are whole numbers, so that columns return to exactly zero. Same rules as the Go EPP's inflight-load-producer.
    """

    type = "inflight-load-producer"
    first_piece_only = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        add_estimated_output_tokens: bool = False
        output_ratio: Annotated[float, msgspec.Meta(ge=0)] = 1.5
        max_estimated_output_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
        prefix_match_info_producer_name: str = ""
        sync_cross_replica_state: bool = True

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._fleet: Fleet = handle.fleet
        self._key = data_key(IN_FLIGHT_LOAD, handle.name)
        self._prefix_key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def consumes_if_published(self) -> Sequence[str]:
        return (self._prefix_key,)

    def produce(self, request: Request, candidates: Candidates) -> None:
        request.data[self._key] = InFlightLoad(
            partial(self._uncached, float(request.payload.prompt_tokens), request.data.get(self._prefix_key))
        )

    def _uncached(self, tokens: float, match: PrefixMatch | None) -> Floats:
        if match is None or not match.total_blocks:
            return np.full(self._fleet.capacity, tokens)
        return np.maximum(tokens - match.matched_blocks * match.block_size_tokens, 0.0)

    def _uncached_on(self, request: Request, endpoint: Endpoint) -> float:
        """Tokens of the prompt that `endpoint` has still to read; a whole number."""
        tokens = request.payload.prompt_tokens
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        if match is None or not match.total_blocks:
            return float(tokens)
        return float(max(tokens - int(match.matched_blocks.item(endpoint.row)) * match.block_size_tokens, 0))

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        if _CHARGES in request.state:
            return
        target = result.target
        charges = _Charges(target, self._uncached_on(request, target), float(self._output_tokens(request)))
        self._add(target, 1.0, charges.prompt_tokens + charges.output_tokens)
        for name, profile in result.profiles.items():
            if name != result.primary and profile is not None and profile.endpoints:
                other = profile.endpoints[0]
                tokens = self._uncached_on(request, other)
                self._add(other, 1.0, tokens)
                charges.others.append((other, tokens))
        request.state[_CHARGES] = charges

    def response_chunk(self, request: Request, response: Response, chunk: bytes) -> None:
        charges: _Charges | None = request.state.get(_CHARGES)
        if charges is not None and (charges.prompt_tokens or charges.others):
            self._prompt_was_read(charges)

    def response_complete(self, request: Request, response: Response) -> None:
        charges: _Charges | None = request.state.pop(_CHARGES, None)
        if charges is not None:
            self._prompt_was_read(charges)
            self._add(charges.target, -1.0, -charges.output_tokens)

    def _prompt_was_read(self, charges: _Charges) -> None:
        if not charges.prompt_tokens and not charges.others:
            return
        self._add(charges.target, 0.0, -charges.prompt_tokens)
        charges.prompt_tokens = 0.0
        for endpoint, tokens in charges.others:
            self._add(endpoint, -1.0, -tokens)
        charges.others.clear()

    def _add(self, endpoint: Endpoint, requests: float, tokens: float) -> None:
        # The row of an endpoint that is gone may be another's by now.
        if endpoint.alive:
            columns = self._fleet.columns
            if requests:
                columns[IN_FLIGHT_REQUESTS][endpoint.row] += requests
            if tokens:
                columns[IN_FLIGHT_TOKENS][endpoint.row] += tokens

    def _output_tokens(self, request: Request) -> int:
        if not self.params.add_estimated_output_tokens:
            return 0
        estimate = int(request.payload.prompt_tokens * self.params.output_ratio)
        for most in (request.payload.max_output_tokens, self.params.max_estimated_output_tokens or None):
            if most is not None:
                estimate = min(estimate, most)
        return max(estimate, 0)
