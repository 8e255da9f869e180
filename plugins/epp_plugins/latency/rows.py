"""The features of every candidate, as one matrix: from the fleet's columns, our own counts, and what producers published."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from epp.api import (
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    WAITING_REQUESTS,
    Candidates,
    EncoderMatch,
    Fleet,
    Floats,
    PrefillBacklog,
    PrefixMatch,
    Request,
)
from epp_plugins.latency.ledger import Ledger
from epp_predictor.features import COLUMN, MOST

_KV: Final = COLUMN["kv_cache_percentage"]
_INPUT: Final = COLUMN["input_token_length"]
_WAITING: Final = COLUMN["num_request_waiting"]
_PREFIX: Final = COLUMN["prefix_cache_score"]
_MATCHED: Final = COLUMN["encoder_matched_size"]
_ENCODED: Final = COLUMN["encoder_input_size"]
_ROLE: Final = COLUMN["pod_type"]
_BACKLOG: Final = COLUMN["prefill_backlog_tokens"]
_AGE: Final = COLUMN["metric_age_s"]
_ZERO: Final = np.array(0.0)


class Rows:
    """Makes matrices (`epp_predictor.features`). Keys are those of `Request.data`; an empty one is not looked up.

    What stays the same from one request to the next, or is counted, stands in `Ledger.by_feature` for the whole fleet.
    """

    def __init__(
        self, fleet: Fleet, ledger: Ledger, *, prefix_key: str, backlog_key: str, encoder_key: str = ""
    ) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._prefix_key = prefix_key
        self._backlog_key = backlog_key
        self._encoder_key = encoder_key
        self._read: tuple[bytes, ...] = ()

    @property
    def roles(self) -> Floats:
        """By row of the fleet: the code of the role that an endpoint's label names."""
        roles: Floats = self._ledger.by_feature[_ROLE]
        return roles

    def make(self, request: Request, candidates: Candidates, now_s: float) -> Floats:
        """A row for each candidate, within range. What is not known of a server (NaN) counts as 0; its age tells."""
        self._read_pages()
        rows = candidates.rows
        by_feature: Floats = self._ledger.by_feature.take(rows, axis=1)
        age_s = by_feature[_AGE]
        np.subtract(now_s, age_s, out=age_s)
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        by_feature[_INPUT] = prompt_tokens(request, match)
        if match is not None and match.total_blocks:
            whole = match.prompt_tokens or match.total_blocks * match.block_size_tokens
            np.multiply(match.held_blocks.take(rows), match.block_size_tokens / whole, out=by_feature[_PREFIX])
        backlog: PrefillBacklog | None = request.data.get(self._backlog_key)
        if backlog is not None:
            by_feature[_BACKLOG] = backlog.tokens[rows]
        if self._encoder_key:
            encoder: EncoderMatch | None = request.data.get(self._encoder_key)
            if encoder is not None:
                by_feature[_MATCHED] = encoder.matched_size[rows]
                by_feature[_ENCODED] = encoder.total_size
        return _within_range(by_feature).T

    def _read_pages(self) -> None:
        """Take over what was read of servers, if it has changed. The row of ages holds the time of each page."""
        columns = self._fleet.columns
        kv_cache, waiting, updated_s = columns[KV_CACHE_USAGE], columns[WAITING_REQUESTS], columns[METRICS_UPDATED_S]
        read = (kv_cache.tobytes(), waiting.tobytes(), updated_s.tobytes())
        if read != self._read:
            self._ledger.fit(len(kv_cache))
            by_feature = self._ledger.by_feature[:, : len(kv_cache)]
            by_feature[_KV], by_feature[_WAITING], by_feature[_AGE] = kv_cache, waiting, updated_s
            self._read = read


def _within_range(by_feature: Floats) -> Floats:
    """In place. fmax and fmin take the number where the other is NaN; adding 0.0 makes 0.0 of -0.0."""
    np.fmax(by_feature, _ZERO, out=by_feature)
    np.fmin(by_feature, _most(by_feature.shape[1]), out=by_feature)
    np.add(by_feature, _ZERO, out=by_feature)
    return by_feature


@lru_cache(8)
def _most(candidates: int) -> Floats:
    return np.repeat(MOST[:, None], candidates, axis=1)


def prompt_tokens(request: Request, match: PrefixMatch | None) -> int:
    """As exactly as anybody knows: whoever compared the prompt with caches may have its tokens."""
    return (match.prompt_tokens if match is not None else 0) or request.payload.prompt_tokens


def uncached_tokens(features: Floats) -> float:
    """What an endpoint has to read of the prompt, from its features; a whole number."""
    return float(round(features.item(_INPUT) * (1.0 - features.item(_PREFIX))))
