"""The features of every candidate, as one matrix: from the fleet's columns, our own counts, and what producers published."""

from __future__ import annotations

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
from epp_predictor.features import COLUMN, FEATURES, new_features

_KV: Final = COLUMN["kv_cache_percentage"]
_INPUT: Final = COLUMN["input_token_length"]
_WAITING: Final = COLUMN["num_request_waiting"]
_PREFIX: Final = COLUMN["prefix_cache_score"]
_MATCHED: Final = COLUMN["encoder_matched_size"]
_ENCODED: Final = COLUMN["encoder_input_size"]
_ROLE: Final = COLUMN["pod_type"]
_BACKLOG: Final = COLUMN["prefill_backlog_tokens"]
_AGE: Final = COLUMN["metric_age_s"]
# Where the rows of `Ledger.counts` go.
_COUNTED: Final = np.array(
    [
        COLUMN[name]
        for name in (
            "num_request_running",
            "prefill_tokens_in_flight",
            "decode_tokens_in_flight",
            "uncached_tokens_in_flight",
            "prefill_requests_in_flight",
            "decode_requests_in_flight",
        )
    ]
)
_MOST: Final = np.array([[feature.most] for feature in FEATURES])


class Rows:
    """Makes matrices (`epp_predictor.features`). Keys are those of `Request.data`; an empty one is not looked up.

    `roles`: by row of the fleet, the code of the role that an endpoint's label names.
    """

    def __init__(
        self, fleet: Fleet, ledger: Ledger, *, prefix_key: str, backlog_key: str, encoder_key: str = ""
    ) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._prefix_key = prefix_key
        self._backlog_key = backlog_key
        self._encoder_key = encoder_key
        self.has_roles = False
        self.roles: Floats = np.zeros(16)

    def fit(self, capacity: int) -> None:
        """Have a role for each of the fleet's rows."""
        missing = capacity - len(self.roles)
        if missing > 0:
            self.roles = np.append(self.roles, np.zeros(missing))

    def make(self, request: Request, candidates: Candidates, now_s: float) -> Floats:
        """A row for each candidate, within range. What is not known of a server (NaN) counts as 0; its age tells."""
        rows, columns = candidates.rows, self._fleet.columns
        features = new_features(len(rows))
        by_feature = features.T
        by_feature[_KV] = columns[KV_CACHE_USAGE].take(rows)
        by_feature[_WAITING] = columns[WAITING_REQUESTS].take(rows)
        np.subtract(now_s, columns[METRICS_UPDATED_S].take(rows), out=by_feature[_AGE])
        by_feature[_COUNTED] = self._ledger.counts.take(rows, axis=1)
        if self.has_roles:
            by_feature[_ROLE] = self.roles.take(rows)
        match: PrefixMatch | None = request.data.get(self._prefix_key)
        tokens = prompt_tokens(request, match)
        by_feature[_INPUT] = tokens
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
        # fmax and fmin take the number where the other is NaN; adding 0.0 makes 0.0 of -0.0.
        np.fmin(np.fmax(by_feature, 0.0, out=by_feature), _MOST, out=by_feature)
        by_feature += 0.0
        return features


def prompt_tokens(request: Request, match: PrefixMatch | None) -> int:
    """As exactly as anybody knows: whoever compared the prompt with caches may have its tokens."""
    return (match.prompt_tokens if match is not None else 0) or request.payload.prompt_tokens


def uncached_tokens(features: Floats) -> float:
    """What an endpoint has to read of the prompt, from its features; a whole number."""
    return float(round(features.item(_INPUT) * (1.0 - features.item(_PREFIX))))
