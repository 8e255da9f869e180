"""The physical prior: latency as a sum of terms that can only add to it.

TTFT and TPOT are each a weighted sum of terms with weights that are not negative: a constant, prompt tokens to compute,
what is queued or computed before them, the square of long prompts (attention), sharing steps with running sequences,
and running out of KV cache. A sum of such terms grows beyond what was seen as the load grows, which trees cannot do: a
leaf is a constant.
"""

from __future__ import annotations

from typing import Final

import numpy as np

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

_INPUT: Final = COLUMN["input_token_length"]
_PREFIX: Final = COLUMN["prefix_cache_score"]
_RUNNING: Final = COLUMN["num_request_running"]
_KV: Final = COLUMN["kv_cache_percentage"]
_MATCHED: Final = COLUMN["encoder_matched_size"]
_ENCODED: Final = COLUMN["encoder_input_size"]


def terms(cleaned: Floats) -> Floats:
    """Terms by candidates from features by candidates (`clean`)."""
    made = np.empty((len(TERMS), cleaned.shape[1]))
    made[:COUNT] = cleaned
    effective = (1.0 - cleaned[_PREFIX]) * cleaned[_INPUT]
    made[COUNT] = 1.0
    made[COUNT + 1] = effective
    made[COUNT + 2] = effective * effective
    made[COUNT + 3] = effective * cleaned[_RUNNING]
    made[COUNT + 4] = np.maximum(cleaned[_KV] - 0.9, 0.0)
    made[COUNT + 5] = np.maximum(cleaned[_ENCODED] - cleaned[_MATCHED], 0.0)
    return made


def fit_prior(term_rows: Floats, observed_ms: Floats, importance: Floats, target: str) -> Floats:
    """Weights, one per term. Errors count relative to what was observed, so that short latencies are not drowned by
    long ones."""
    relative = np.sqrt(importance) / observed_ms
    used = USED[target]
    weights = np.zeros(len(TERMS))
    weights[used] = nnls((term_rows[used] * relative).T, observed_ms * relative)
    return weights
