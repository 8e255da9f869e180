"""prefix-based-pd-decider: prefill elsewhere when enough of the prompt has still to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from epp.api import PREFIX_MATCH, Decider, Endpoint, Handle, PrefixMatch, Request, data_key


class PrefixBasedPdDecider(Decider):
    """Yes for at least `promptTokens` tokens of which at least `nonCachedTokens` are not cached on the decode endpoint.

    With `nonCachedTokens: 0` never, and never without data about the prefix or before a decode endpoint is chosen. Tokens are
    the prompts' own, or estimated at four bytes each. Same rule as the Go EPP's decider, which can only read the default
    prefix producer and so takes everything for uncached beside a precise one; `prefixMatchInfoProducerName` names another.
    """

    type = "prefix-based-pd-decider"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        non_cached_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
        prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
        prefix_match_info_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(PREFIX_MATCH, params.prefix_match_info_producer_name)
        self._uncached_tokens = params.non_cached_tokens
        self._least_tokens = max(params.prompt_tokens, params.non_cached_tokens)
        if not params.non_cached_tokens:
            handle.log.warning("plugin %s: nonCachedTokens is 0: no request is disaggregated", handle.name)

    def consumes(self) -> Sequence[str]:
        return (self._key,) if self._uncached_tokens else ()

    def disaggregate(self, request: Request, endpoint: Endpoint | None) -> bool:
        tokens = request.payload.prompt_tokens
        if not self._uncached_tokens or endpoint is None or tokens < self._least_tokens:
            return False
        match: PrefixMatch | None = request.data.get(self._key)
        if match is None:
            return False
        cached_tokens = match.held_blocks.item(endpoint.row) * match.block_size_tokens
        return bool(tokens - cached_tokens >= self._uncached_tokens)
