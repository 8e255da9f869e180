"""Environment variables of both services: one table for reading, for `--help` and for the documentation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

ModelType = Literal["xgboost", "bayesian_ridge"]
Objective = Literal["quantile", "mean"]

NO_EFFECT: Final = "accepted, no effect"


class BadVariable(ValueError):
    """A variable has a value that cannot be used; the text names it and what was expected."""


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    default: str
    parse: Callable[[str], Any]
    text: str


def _number(low: float, high: float, *, open_ends: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("a number") from None
        inside = low < value < high if open_ends else low <= value <= high
        if not inside:
            raise ValueError(f"a number from {low:g} to {high:g}" + (", both exclusive" if open_ends else ""))
        return value

    return parse


def _count(low: int, high: int = 10_000_000) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text.lower()

    return parse


def _switch(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError("true or false")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a URL that begins with http:// or https://")
    return text.rstrip("/")


def _file(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("a path")
    return Path(text)


_MODELS: Final = Path(tempfile.gettempdir()) / "models"

_SHARED: Final = (
    Variable("LATENCY_MODEL_TYPE", "xgboost", _one_of("xgboost", "bayesian_ridge"), "kind of model"),
    Variable("LATENCY_OBJECTIVE_TYPE", "quantile", _one_of("quantile", "mean"), "what is predicted"),
    Variable("LATENCY_QUANTILE_ALPHA", "0.9", _number(0, 1, open_ends=True), "the quantile, for that objective"),
    Variable("LATENCY_ENABLE_TOKEN_IN_FLIGHT_FEATURES", "true", _switch, "use the tokens in flight"),
    Variable("LATENCY_ENABLE_ENCODER_FEATURES", "true", _switch, "use the encoder's items"),
    Variable("LATENCY_ENSEMBLE_MODE", "true", _switch, NO_EFFECT),
)

TRAINING: Final = (
    *_SHARED,
    Variable(
        "LATENCY_RETRAINING_INTERVAL_SEC", "1800", _number(0.01, 1e7), "seconds between two fits; drift fits earlier"
    ),
    Variable("LATENCY_MIN_SAMPLES_FOR_RETRAIN_FRESH", "10", _count(4), "samples before the first model of a target"),
    Variable("LATENCY_MIN_SAMPLES_FOR_RETRAIN", "1000", _count(4), "samples before a model is replaced"),
    Variable("LATENCY_MAX_TRAINING_DATA_SIZE_PER_BUCKET", "500", _count(1), "samples kept of each situation"),
    Variable("LATENCY_TEST_TRAIN_RATIO", "0.1", _number(0.01, 0.5), "share of the newest samples that judges a model"),
    Variable("LATENCY_MAX_TEST_DATA_SIZE", "1000", _count(1), "samples that judge, at most"),
    Variable("LATENCY_MAX_SAMPLE_AGE_SEC", "7200", _number(1, 1e9), "age at which samples are dropped (not in llm-d)"),
    Variable(
        "LATENCY_TTFT_MODEL_PATH", str(_MODELS / "ttft.eppm"), _file, "where the TTFT model is kept, and found at start"
    ),
    Variable(
        "LATENCY_TPOT_MODEL_PATH", str(_MODELS / "tpot.eppm"), _file, "where the TPOT model is kept, and found at start"
    ),
    Variable("LATENCY_TTFT_SCALER_PATH", "", str, NO_EFFECT),
    Variable("LATENCY_TPOT_SCALER_PATH", "", str, NO_EFFECT),
    Variable("LATENCY_TTFT_GATED_MODEL_PATH", "", str, NO_EFFECT),
    Variable("LATENCY_TPOT_GATED_MODEL_PATH", "", str, NO_EFFECT),
    Variable("LATENCY_MIN_SAMPLES_FOR_ENSEMBLE_SPLIT", "200", _count(0), NO_EFFECT),
    Variable("LATENCY_SAMPLE_WEIGHTING_FOR_PREFIX_CACHE", "false", _switch, NO_EFFECT),
    Variable("LATENCY_TPOT_ZERO_TOKEN_COUNT", "true", _switch, NO_EFFECT),
)

PREDICTION: Final = (
    *_SHARED,
    Variable("TRAINING_SERVER_URL", "http://training-service:8000", _url, "the training service that is followed"),
    Variable("MODEL_SYNC_INTERVAL_SEC", "10", _number(0.01, 1e7), "seconds between two looks at it"),
    Variable("HTTP_TIMEOUT", "30", _number(0.01, 3600), "seconds that one of its answers may take"),
    Variable("DOWNLOAD_RETRIES", "3", _count(1, 100), "tries of a download"),
    Variable("LOCAL_TTFT_MODEL_PATH", "/local_models/ttft.eppm", _file, "copy of the TTFT model, used at start"),
    Variable("LOCAL_TPOT_MODEL_PATH", "/local_models/tpot.eppm", _file, "copy of the TPOT model, used at start"),
    Variable("LOCAL_TTFT_SCALER_PATH", "", str, NO_EFFECT),
    Variable("LOCAL_TPOT_SCALER_PATH", "", str, NO_EFFECT),
    Variable("LOCAL_TTFT_GATED_MODEL_PATH", "", str, NO_EFFECT),
    Variable("LOCAL_TPOT_GATED_MODEL_PATH", "", str, NO_EFFECT),
    Variable("PREDICT_HOST", "0.0.0.0", str, "address to listen on"),
    Variable("PREDICT_PORT", "8001", _count(0, 65535), "port to listen on"),
    Variable("UVICORN_WORKERS", "1", _count(1, 256), "processes that serve"),
)


def read(table: tuple[Variable, ...], environment: Mapping[str, str]) -> dict[str, Any]:
    """Values by name; an empty variable counts as absent. Raises BadVariable."""
    values = {}
    for variable in table:
        text = environment.get(variable.name, "") or variable.default
        try:
            values[variable.name] = variable.parse(text)
        except ValueError as error:
            raise BadVariable(f"{variable.name}: expected {error}, got {text!r}") from None
    return values


@dataclass(frozen=True, slots=True)
class Objectives:
    """What both services have in common."""

    model_type: ModelType
    objective: Objective
    quantile: float
    uses_tokens_in_flight: bool
    uses_encoder: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Objectives:
        return cls(
            values["LATENCY_MODEL_TYPE"],
            values["LATENCY_OBJECTIVE_TYPE"],
            values["LATENCY_QUANTILE_ALPHA"],
            values["LATENCY_ENABLE_TOKEN_IN_FLIGHT_FEATURES"],
            values["LATENCY_ENABLE_ENCODER_FEATURES"],
        )


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    objectives: Objectives
    interval_s: float
    fewest_fresh: int
    fewest_to_replace: int
    per_stratum: int
    test_share: float
    most_test: int
    max_age_s: float
    paths: Mapping[str, Path]
    """By target."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> TrainingSettings:
        v = read(TRAINING, environment)
        return cls(
            Objectives.of(v),
            v["LATENCY_RETRAINING_INTERVAL_SEC"],
            v["LATENCY_MIN_SAMPLES_FOR_RETRAIN_FRESH"],
            v["LATENCY_MIN_SAMPLES_FOR_RETRAIN"],
            v["LATENCY_MAX_TRAINING_DATA_SIZE_PER_BUCKET"],
            v["LATENCY_TEST_TRAIN_RATIO"],
            v["LATENCY_MAX_TEST_DATA_SIZE"],
            v["LATENCY_MAX_SAMPLE_AGE_SEC"],
            {"ttft": v["LATENCY_TTFT_MODEL_PATH"], "tpot": v["LATENCY_TPOT_MODEL_PATH"]},
        )


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    objectives: Objectives
    training_url: str
    sync_interval_s: float
    timeout_s: float
    tries: int
    paths: Mapping[str, Path]
    host: str
    port: int
    workers: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> PredictionSettings:
        v = read(PREDICTION, environment)
        return cls(
            Objectives.of(v),
            v["TRAINING_SERVER_URL"],
            v["MODEL_SYNC_INTERVAL_SEC"],
            v["HTTP_TIMEOUT"],
            v["DOWNLOAD_RETRIES"],
            {"ttft": v["LOCAL_TTFT_MODEL_PATH"], "tpot": v["LOCAL_TPOT_MODEL_PATH"]},
            v["PREDICT_HOST"],
            v["PREDICT_PORT"],
            v["UVICORN_WORKERS"],
        )
