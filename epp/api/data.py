"""Data that producers publish on a request for filters and scorers, and the keys under which they do."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.api.fleet import Floats

PREFIX_MATCH: Final = "PrefixCacheMatchInfo"  # PrefixMatch
IN_FLIGHT_LOAD: Final = "InFlightLoad"  # InFlightLoad

# Which plugin type publishes a kind of data when the configuration names no producer.
DEFAULT_PRODUCERS: Final[dict[str, str]] = {
    PREFIX_MATCH: "approx-prefix-cache-producer",
    IN_FLIGHT_LOAD: "inflight-load-producer",
}


def data_key(kind: str, producer: str = "") -> str:
    """The key `<kind>/<producer name>`; without a name, the default producer's."""
    return f"{kind}/{producer or DEFAULT_PRODUCERS[kind]}"


class PrefixMatch(msgspec.Struct, frozen=True):
    """How much of the prompt each endpoint is believed to hold in its cache.

    `matched_blocks` is indexed by fleet row (use `[candidates.rows]`): leading blocks of the prompt that are cached there.
    `total_blocks` counts the prompt's whole blocks of `block_size_tokens` tokens.
    """

    matched_blocks: Floats
    total_blocks: int
    block_size_tokens: int


class InFlightLoad(msgspec.Struct, frozen=True):
    """What this request would add: `uncached_tokens`, indexed by fleet row: prompt tokens not cached there.

    The load that is there already is in the columns IN_FLIGHT_REQUESTS and IN_FLIGHT_TOKENS.
    """

    uncached_tokens: Floats
