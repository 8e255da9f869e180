"""Request bodies of both services, and how they become features and samples.

Field names and ranges are those of llm-d's predictor. Numbers may come as strings, unknown fields are ignored, as
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from epp_predictor import samples
from epp_predictor.features import COLUMN, MOST, POD_TYPES, Floats, new_features
from epp_predictor.servers.variables import Objectives

MOST_ROWS: Final = 10_000

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Milliseconds = Annotated[float, Meta(ge=0)]


class PredictionRequest(msgspec.Struct):
    kv_cache_percentage: Share
    input_token_length: Count
    num_request_waiting: Count
    num_request_running: Count
    num_tokens_generated: Count
    prefix_cache_score: Share
    pod_type: str | None = ""
    prefill_tokens_in_flight: Count = 0
    decode_tokens_in_flight: Count = 0
    encoder_matched_size: Count = 0
    encoder_input_size: Count = 0


class TrainingEntry(PredictionRequest, kw_only=True):
    actual_ttft_ms: Milliseconds
    actual_tpot_ms: Milliseconds
    timestamp: datetime | None = None


class BulkTraining(msgspec.Struct):
    entries: list[TrainingEntry]


class BulkPrediction(msgspec.Struct):
    requests: Annotated[list[PredictionRequest], Meta(min_length=1, max_length=MOST_ROWS)]


class LooseBulkPrediction(msgspec.Struct):
    """Items are looked at one by one."""

    requests: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MOST_ROWS)]


class FlushRequest(msgspec.Struct):
    flush_training_data: bool = True
    flush_test_data: bool = True
    flush_metrics: bool = True
    reason: str | None = None


_FIELDS: Final = (
    "kv_cache_percentage",
    "input_token_length",
    "num_request_waiting",
    "num_request_running",
    "prefix_cache_score",
    "prefill_tokens_in_flight",
    "decode_tokens_in_flight",
    "encoder_matched_size",
    "encoder_input_size",
)
_COLUMNS: Final = np.array([COLUMN[name] for name in _FIELDS])
_POD_TYPE: Final = COLUMN["pod_type"]
_TOKENS: Final = [COLUMN["prefill_tokens_in_flight"], COLUMN["decode_tokens_in_flight"]]
_ENCODER: Final = [COLUMN["encoder_matched_size"], COLUMN["encoder_input_size"]]


def features_of(requests: Sequence[PredictionRequest], objectives: Objectives) -> Floats:
    """Candidates by FEATURES. One way for every route and for training, so that all of them see the same."""
    made = new_features(len(requests))
    if not requests:
        return made
    made[:, _COLUMNS] = [
        (
            r.kv_cache_percentage,
            r.input_token_length,
            r.num_request_waiting,
            r.num_request_running,
            r.prefix_cache_score,
            r.prefill_tokens_in_flight,
            r.decode_tokens_in_flight,
            r.encoder_matched_size,
            r.encoder_input_size,
        )
        for r in requests
    ]
    made[:, _POD_TYPE] = [POD_TYPES.get(r.pod_type or "", 0.0) for r in requests]
    if not objectives.uses_tokens_in_flight:
        made[:, _TOKENS] = 0.0
    if not objectives.uses_encoder:
        made[:, _ENCODER] = 0.0
    return made


def rows_of(entries: Sequence[TrainingEntry], objectives: Objectives, now_s: float, max_age_s: float) -> Floats:
    """Samples. By convention a latency of 0 was not observed."""
    rows = np.full((len(entries), samples.WIDTH), np.nan)
    rows[:, samples.FIRST_FEATURE :] = np.minimum(features_of(entries, objectives), MOST)
    rows[:, samples.ENDPOINT] = 0.0
    rows[:, samples.CENSORED] = 0.0
    rows[:, samples.TIME] = [_time_s(entry, now_s, max_age_s) for entry in entries]
    for target, values in (
        ("ttft", [e.actual_ttft_ms for e in entries]),
        ("tpot", [e.actual_tpot_ms for e in entries]),
    ):
        column = np.array(values)
        rows[:, samples.OBSERVED[target]] = np.where(column > 0, column, np.nan)
    return rows


def _time_s(entry: TrainingEntry, now_s: float, max_age_s: float) -> float:
    """When it was observed, if that can be: not in the future. Without a time zone the time is UTC's."""
    if entry.timestamp is None:
        return now_s
    try:
        seconds = entry.timestamp.timestamp()
    except (OverflowError, ValueError, OSError):
        return now_s
    return seconds if now_s - max_age_s <= seconds <= now_s else now_s
