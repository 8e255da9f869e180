"""The physical prior: latency as a sum of terms that can only add to it.

TTFT and TPOT are each a weighted sum of terms with weights that are not negative: a constant, prompt tokens to compute,
what is queued or computed before them, the square of long prompts (attention), sharing steps with running sequences,
and running out of KV cache. A sum of such terms grows beyond what was seen as the load grows, which trees cannot do: a
leaf is a constant.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COLUMN, COUNT, NAMES, Floats
from epp_predictor.nnls import nnls

TARGETS: Final = ("ttft", "tpot")

_COMPUTED: Final = (
    "constant",
    "effective_input_tokens",
    "effective_input_tokens_squared",
    "effective_input_tokens_x_running",
    "kv_cache_above_0.9",
    "encoder_unmatched",
)
TERMS: Final = (*NAMES, *_COMPUTED)
"""Rows of `terms`: the features themselves, then what is computed of them."""

_TTFT: Final = (
    *_COMPUTED,
    "num_request_waiting",
    "num_request_running",
    "prefill_tokens_in_flight",
    "decode_tokens_in_flight",
    "uncached_tokens_in_flight",
    "prefill_backlog_tokens",
)
_TPOT: Final = (
    "constant",
    "kv_cache_above_0.9",
    "effective_input_tokens",
    "input_token_length",
    "kv_cache_percentage",
    "num_request_waiting",
    "num_request_running",
    "prefill_tokens_in_flight",
    "decode_tokens_in_flight",
    "prefill_backlog_tokens",
    "decode_requests_in_flight",
)
USED: Final = {
    "ttft": np.array([TERMS.index(name) for name in _TTFT]),
    "tpot": np.array([TERMS.index(name) for name in _TPOT]),
}

LEAST_MS: Final = 0.01
"""What a prior says at least, so that its logarithm exists."""

# Arrays, since numpy makes one of every Python number that it is given, each time.
_ZERO: Final = np.array(0.0)
_ONE: Final = np.array(1.0)
_KV_IS_SHORT: Final = np.array(0.9)

_INPUT: Final = COLUMN["input_token_length"]
_PREFIX: Final = COLUMN["prefix_cache_score"]
_RUNNING: Final = COLUMN["num_request_running"]
_KV: Final = COLUMN["kv_cache_percentage"]
_MATCHED: Final = COLUMN["encoder_matched_size"]
_ENCODED: Final = COLUMN["encoder_input_size"]


def terms(cleaned: Floats) -> Floats:
    """Terms by candidates from features by candidates (`clean`)."""
    return TermRows(np.ones(len(TERMS), dtype=np.bool_), cleaned.shape[1]).fill(cleaned)


class TermRows:
    """The terms of so many candidates, again and again in the same place. Those that nobody wants may stay 0."""

    __slots__ = (
        *("_above", "_effective", "_features", "_squared", "_terms", "_unmatched"),
        *("_wants_above", "_wants_unmatched", "_wants_x_running", "_x_running"),
    )

    def __init__(self, wanted: NDArray[np.bool_], candidates: int) -> None:
        self._terms = np.zeros((len(TERMS), candidates))
        self._features = self._terms[:COUNT]
        self._terms[COUNT] = 1.0
        self._effective, self._squared, self._x_running, self._above, self._unmatched = self._terms[COUNT + 1 :]
        self._wants_x_running, self._wants_above, self._wants_unmatched = wanted[COUNT + 3 :].tolist()

    def fill(self, cleaned: Floats) -> Floats:
        """As `terms`. What was returned before is overwritten."""
        effective = self._effective
        self._features[...] = cleaned
        np.subtract(_ONE, cleaned[_PREFIX], out=effective)
        np.multiply(effective, cleaned[_INPUT], out=effective)
        np.multiply(effective, effective, out=self._squared)
        if self._wants_x_running:
            np.multiply(effective, cleaned[_RUNNING], out=self._x_running)
        if self._wants_above:
            np.subtract(cleaned[_KV], _KV_IS_SHORT, out=self._above)
            np.maximum(self._above, _ZERO, out=self._above)
        if self._wants_unmatched:
            np.subtract(cleaned[_ENCODED], cleaned[_MATCHED], out=self._unmatched)
            np.maximum(self._unmatched, _ZERO, out=self._unmatched)
        return self._terms


def fit_prior(term_rows: Floats, observed_ms: Floats, importance: Floats, target: str) -> Floats:
    """Weights, one per term. Errors count relative to what was observed, so that short latencies are not drowned by
    long ones."""
    relative = np.sqrt(importance) / observed_ms
    used = USED[target]
    weights = np.zeros(len(TERMS))
    weights[used] = nnls((term_rows[used] * relative).T, observed_ms * relative)
    return weights
