"""Data that producers publish on a request for filters and scorers, and the keys under which they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec
import numpy as np

from epp.api.endpoint import Endpoint
from epp.api.fleet import Floats
from epp.api.request import Medium, Prompt

PREFIX_MATCH: Final = "PrefixCacheMatchInfo"  # PrefixMatch
IN_FLIGHT_LOAD: Final = "InFlightLoad"  # InFlightLoad
TOKENIZED_PROMPT: Final = "TokenizedPrompt"  # TokenizedPrompt
ENCODER_MATCH: Final = "EncoderCacheMatchInfo"  # EncoderMatch
LATENCY_PREDICTION: Final = "LatencyPredictionInfo"  # LatencyPrediction
LATENCY_RECORD: Final = "LatencyRecord"  # LatencyRecord; there once the destination is known
PREFILL_BACKLOG: Final = "PrefillBacklog"  # PrefillBacklog
SESSION_ID: Final = "SessionID"  # str; absent where the request has none
AGENT_IDENTITY: Final = "agent-identity"  # str; absent where the request has none

MODELS: Final = "/v1/models"  # attribute of an endpoint: tuple[ServedModel, ...]

# A key of its own, without a producer: the endpoint that a profile handler chose for an earlier stage of the request.
PEER_ENDPOINT: Final = "peer-endpoint"

# Which plugin type publishes a kind of data when the configuration names no producer.
DEFAULT_PRODUCERS: Final[dict[str, str]] = {
    PREFIX_MATCH: "approx-prefix-cache-producer",
    IN_FLIGHT_LOAD: "inflight-load-producer",
    TOKENIZED_PROMPT: "token-producer",
    ENCODER_MATCH: "mm-embeddings-cache-producer",
    LATENCY_PREDICTION: "predicted-latency-producer",
    LATENCY_RECORD: "predicted-latency-producer",
    PREFILL_BACKLOG: "prefill-backlog-producer",
    SESSION_ID: "session-id-producer",
    AGENT_IDENTITY: "agent-identity",
}


def data_key(kind: str, producer: str = "") -> str:
    """The key `<kind>/<producer name>`; without a name, the default producer's."""
    return f"{kind}/{producer or DEFAULT_PRODUCERS[kind]}"


class PrefixMatch(msgspec.Struct, frozen=True):
    """How much of the prompt each endpoint is believed to hold in its cache.

    `matched_blocks` is indexed by fleet row (use `[candidates.rows]`): leading blocks of the prompt that are cached there.
    A block at a slower tier of the cache may count as less than one. `total_blocks` counts the prompt's whole blocks of
    `block_size_tokens` tokens; all of it has `prompt_tokens`, as far as the producer can tell (0: it does not). `confidence`,
    by row too, is the share of the producer's recent predictions that the engine's answers have borne out; NaN before the
    first one, None from producers that do not compare. Of a producer that knows of tiers, `cached_blocks` counts every block
    as one, and `told` says by row whether the server itself has told (1) or it is a guess (0).
    """

    matched_blocks: Floats
    total_blocks: int
    block_size_tokens: int
    prompt_tokens: int = 0
    confidence: Floats | None = None
    cached_blocks: Floats | None = None
    told: Floats | None = None

    @property
    def held_blocks(self) -> Floats:
        """As `matched_blocks`, but every block counts as one, at whichever tier it is."""
        return self.matched_blocks if self.cached_blocks is None else self.cached_blocks

    def cached_tokens(self, row: int, prompt_tokens: int) -> float:
        """How many of a prompt's tokens are expected to be cached in `row`, if its engine counts `prompt_tokens` of them."""
        matched = self.held_blocks.item(row) * self.block_size_tokens
        scale = prompt_tokens / self.prompt_tokens if self.prompt_tokens else 1.0
        return float(min(matched * scale, prompt_tokens))


class InFlightLoad:
    """What this request would add: `uncached_tokens`, indexed by fleet row: prompt tokens not cached there.

    Made of the vector, or of a function that makes it when somebody asks. The load that is there already is in the columns
    IN_FLIGHT_REQUESTS and IN_FLIGHT_TOKENS.
    """

    __slots__ = ("_make", "_uncached_tokens")

    def __init__(self, uncached_tokens: Floats | Callable[[], Floats]) -> None:
        self._uncached_tokens = uncached_tokens if isinstance(uncached_tokens, np.ndarray) else None
        self._make = uncached_tokens

    @property
    def uncached_tokens(self) -> Floats:
        if self._uncached_tokens is None:
            assert callable(self._make)
            self._uncached_tokens = self._make()
        return self._uncached_tokens


class TokenizedPrompt(msgspec.Struct, frozen=True):
    """All prompts of a request as the model server's tokenizer sees them, and their media in the order they come."""

    prompts: tuple[Prompt, ...]
    media: tuple[Medium, ...] = ()


class EncoderMatch(msgspec.Struct, frozen=True):
    """How much of a request's media each endpoint is believed to hold encoded.

    `matched_size` is indexed by fleet row (use `[candidates.rows]`); sizes are tokens, or media where tokens are unknown.
    """

    matched_size: Floats
    total_size: float


class LatencyPrediction(msgspec.Struct, frozen=True):
    """How long each endpoint would take for this request: milliseconds by fleet row (use `[candidates.rows]`), NaN unknown.

    `ttft_ms` and `tpot_ms` are medians; nine requests of ten lie between `low` and `high`. An SLO that the request does not
    have is infinite, so its headroom is, too. `tpot_budget_ms` is the SLO for time per output token, by row, or a tighter one
    of a request that runs there.
    """

    levels_ms: Floats
    """Six rows: `ttft_ms`, `ttft_low_ms`, `ttft_high_ms`, then the same of `tpot`."""
    tpot_budget_ms: Floats
    ttft_slo_ms: float = np.inf
    tpot_slo_ms: float = np.inf

    @property
    def ttft_ms(self) -> Floats:
        row: Floats = self.levels_ms[0]
        return row

    @property
    def ttft_low_ms(self) -> Floats:
        row: Floats = self.levels_ms[1]
        return row

    @property
    def ttft_high_ms(self) -> Floats:
        row: Floats = self.levels_ms[2]
        return row

    @property
    def tpot_ms(self) -> Floats:
        row: Floats = self.levels_ms[3]
        return row

    @property
    def tpot_low_ms(self) -> Floats:
        row: Floats = self.levels_ms[4]
        return row

    @property
    def tpot_high_ms(self) -> Floats:
        row: Floats = self.levels_ms[5]
        return row

    @property
    def has_slo(self) -> bool:
        """Whether the request asked for any latency."""
        return min(self.ttft_slo_ms, self.tpot_slo_ms) < np.inf

    @property
    def ttft_headroom_ms(self) -> Floats:
        """By row: what is left of the SLO for the first token; negative where it would be missed."""
        headroom: Floats = self.ttft_slo_ms - self.ttft_ms
        return headroom

    @property
    def tpot_headroom_ms(self) -> Floats:
        """The same of the time per output token."""
        headroom: Floats = self.tpot_budget_ms - self.tpot_ms
        return headroom


class LatencyRecord:
    """What the latencies of one request were predicted to be and what they are: filled in as its response comes.

    Published when the destination is known, whether or not anything could be predicted. Milliseconds are NaN for as long as
    they are not known: predictions of an untrained predictor, latencies of answers that are not streamed, whose bodies the
    proxy does not send, or that failed. Nine requests of ten lie between `low` and `high`. When the hooks of a piece of the
    body have run, it is up to date with that piece: whatever is added to a response reads it then.
    """

    MOST_OBSERVATIONS: ClassVar[int] = 128

    __slots__ = (
        "choices",
        "dispatched_s",
        "endpoint",
        "first_content_s",
        "last_content_s",
        "predicted_tpot_high_ms",
        "predicted_tpot_low_ms",
        "predicted_tpot_ms",
        "predicted_ttft_high_ms",
        "predicted_ttft_low_ms",
        "predicted_ttft_ms",
        "tokens",
        "tpot_observations_ms",
        "tpot_slo_ms",
        "ttft_ms",
        "ttft_slo_ms",
    )

    def __init__(self, endpoint: Endpoint, dispatched_s: float, *, choices: int = 1) -> None:
        self.endpoint = endpoint  # that generates
        self.choices = choices  # that are generated side by side
        self.dispatched_s = (
            dispatched_s  # seconds of the handle's clock: the destination was known, all latencies begin here
        )
        self.ttft_slo_ms = self.tpot_slo_ms = math.inf  # what the request asked for; infinite: nothing
        self.predicted_ttft_ms = self.predicted_ttft_low_ms = self.predicted_ttft_high_ms = math.nan
        self.predicted_tpot_ms = self.predicted_tpot_low_ms = self.predicted_tpot_high_ms = math.nan
        self.ttft_ms = math.nan  # to the first piece of the body that brings generated content
        # That have come, of all choices: events with content, and at the end what the server reports where it does.
        self.tokens = 0
        self.first_content_s: float | None = None
        self.last_content_s: float | None = None
        self.tpot_observations_ms: list[float] = []  # time between tokens of a choice, of the first of them only

    def came(self, tokens: int, now_s: float) -> None:
        """So many more tokens have come, together."""
        last_s = self.last_content_s
        if last_s is not None and len(self.tpot_observations_ms) < self.MOST_OBSERVATIONS:
            self.tpot_observations_ms.append((now_s - last_s) * 1e3 * self.choices / tokens)
        self.last_content_s = now_s
        self.tokens += tokens

    @property
    def average_tpot_ms(self) -> float | None:
        """Time per output token of a choice after its first, up to now; None before the second. All choices are taken to be
        of the same length."""
        first_s, last_s = self.first_content_s, self.last_content_s
        if first_s is None or last_s is None or self.tokens <= self.choices or last_s <= first_s:
            return None
        return (last_s - first_s) * 1e3 * self.choices / (self.tokens - self.choices)


class PrefillBacklog(msgspec.Struct, frozen=True):
    """Prefill work ahead of this request, by fleet row (use `[candidates.rows]`).

    `tokens` are uncached prompt tokens of requests dispatched before that are believed not to be done; `rate` is how many
    tokens a second the endpoint gets through, as learnt from its first tokens; `uncached_tokens` is what this request adds;
    `strangers` are requests in flight there that this picker did not send, where there are any.
    """

    tokens: Floats
    rate: Floats
    uncached_tokens: Floats
    strangers: Floats | None = None


class ServedModel(msgspec.Struct, frozen=True):
    """A model that a server says it serves. `parent` is the base model of an adapter, empty for any other."""

    id: str
    parent: str = ""
