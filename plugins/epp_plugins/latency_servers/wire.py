"""What the standalone servers are sent and what they answer, as JSON. Field names are those of llm-d's predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from epp.api import Floats
from epp_predictor.features import COLUMN, POD_TYPES
from epp_predictor.samples import FIRST_FEATURE, OBSERVED

_SHARES: Final = ("kv_cache_percentage", "prefix_cache_score")
_COUNTS: Final = (
    "input_token_length",
    "num_request_waiting",
    "num_request_running",
    "prefill_tokens_in_flight",
    "decode_tokens_in_flight",
    "encoder_matched_size",
    "encoder_input_size",
)
_POD_TYPES: Final = {code: name for name, code in POD_TYPES.items()}


class BadAnswer(ValueError):
    """An answer that says nothing usable. The message says why."""


class _Predicted(msgspec.Struct):
    ttft_ms: float
    tpot_ms: float


class _Predictions(msgspec.Struct):
    predictions: list[_Predicted]


_decode: Final = msgspec.json.Decoder(_Predictions).decode


def bulk_request(features: Sequence[Floats]) -> bytes:
    """The body of `/predict/bulk/strict` for matrices of candidates by features, one after the other."""
    return msgspec.json.encode({"requests": [_row(row) for matrix in features for row in matrix]})


def predictions(body: bytes, count: int) -> Floats:
    """TTFT and TPOT in ms: two rows, `count` columns. Raises BadAnswer."""
    try:
        said = _decode(body).predictions
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(f"the answer cannot be read: {error}") from error
    if len(said) != count:
        raise BadAnswer(f"{len(said)} predictions for {count} rows")
    values = np.array([[p.ttft_ms for p in said], [p.tpot_ms for p in said]])
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise BadAnswer("a prediction is negative or not finite")
    return values


def training_entries(sample: Floats, timestamp: str) -> list[dict[str, object]]:
    """A sample (`epp_predictor.samples`) as entries, one for each latency that was observed; 0 stands for the other one."""
    row = _row(sample[FIRST_FEATURE:])
    entries: list[dict[str, object]] = []
    for target, column in OBSERVED.items():
        value = float(sample[column])
        if value > 0:
            latencies = {"actual_ttft_ms": 0.0, "actual_tpot_ms": 0.0, f"actual_{target}_ms": value}
            entries.append(row | latencies | {"timestamp": timestamp})
    return entries


def _row(features: Floats) -> dict[str, object]:
    row: dict[str, object] = {name: min(max(features.item(COLUMN[name]), 0.0), 1.0) for name in _SHARES}
    row.update({name: int(max(features.item(COLUMN[name]), 0.0)) for name in _COUNTS})
    row["num_tokens_generated"] = 1
    row["pod_type"] = _POD_TYPES.get(features.item(COLUMN["pod_type"]), "")
    return row
