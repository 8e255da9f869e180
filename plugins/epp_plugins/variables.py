"""Environment variables that set defaults of plugins' parameters, as those of the SLO-aware Go EPP did. One table, read once.

A parameter that the configuration gives goes before its variable; an empty variable is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from epp.api import ConfigError

Defaults = Mapping[str, Mapping[str, Any]]
"""Values of parameters by plugin type and the parameter's configured name."""


@dataclass(frozen=True, slots=True)
class Variable:
    """`sets` names the parameters: pairs of a plugin's type and the parameter's configured name."""

    name: str
    parse: Callable[[str], Any]
    sets: tuple[tuple[str, str], ...]


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    words = f"a number {'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < math.inf else "")

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high) or not math.isfinite(value) or (above and value == low):
            raise ValueError(words)
        return value

    return parse


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < low:
            raise ValueError(f"a whole number from {low}")
        return int(text)

    return parse


def _urls(text: str) -> str:
    if not all(part.strip().startswith(("http://", "https://")) for part in text.split(",") if part.strip()):
        raise ValueError("http://HOST:PORT, several with commas between them")
    return text


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text.lower()

    return parse


_SCORER: Final = "latency-scorer"
_OLD_SCORER: Final = "predicted-latency-scorer"
_TIERS: Final = "slo-headroom-tier-filter"
_AFFINITY: Final = "prefix-cache-affinity-filter"
_PRODUCER: Final = "predicted-latency-producer"

_weight: Final = _number(0)
_share: Final = _number(0, 1)

VARIABLES: Final = (
    Variable("HEADROOM_TTFT_WEIGHT", _weight, ((_SCORER, "ttftWeight"), (_OLD_SCORER, "headroomTTFTWeight"))),
    Variable("HEADROOM_TPOT_WEIGHT", _weight, ((_SCORER, "tpotWeight"), (_OLD_SCORER, "headroomTPOTWeight"))),
    Variable("NEG_HEADROOM_TTFT_WEIGHT", _weight, ((_OLD_SCORER, "negHeadroomTTFTWeight"),)),
    Variable("NEG_HEADROOM_TPOT_WEIGHT", _weight, ((_OLD_SCORER, "negHeadroomTPOTWeight"),)),
    Variable(
        "HEADROOM_SELECTION_STRATEGY",
        _one_of("least", "most", "composite-least", "composite-most", "composite-only"),
        ((_SCORER, "headroomSelectionStrategy"), (_OLD_SCORER, "headroomSelectionStrategy")),
    ),
    Variable("COMPOSITE_KV_WEIGHT", _weight, ((_SCORER, "compositeKVWeight"), (_OLD_SCORER, "compositeKVWeight"))),
    Variable(
        "COMPOSITE_QUEUE_WEIGHT", _weight, ((_SCORER, "compositeQueueWeight"), (_OLD_SCORER, "compositeQueueWeight"))
    ),
    Variable(
        "COMPOSITE_PREFIX_WEIGHT", _weight, ((_SCORER, "compositePrefixWeight"), (_OLD_SCORER, "compositePrefixWeight"))
    ),
    Variable("NEG_HEADROOM_EPSILON", _share, ((_TIERS, "epsilonExploreNeg"), (_OLD_SCORER, "epsilonExploreNeg"))),
    Variable("STICKY_EPSILON", _share, ((_AFFINITY, "explorationProbability"), (_OLD_SCORER, "epsilonExploreSticky"))),
    Variable("AFFINITY_GATE_TAU", _share, ((_AFFINITY, "affinityThreshold"), (_OLD_SCORER, "affinityGateTau"))),
    Variable("AFFINITY_GATE_TAU_GLOBAL", _share, ((_OLD_SCORER, "affinityGateTauGlobal"),)),
    Variable("POD_SELECTION_MODE", _one_of("linear", "max"), ((_OLD_SCORER, "selectionMode"),)),
    Variable("SLO_BUFFER_FACTOR", _number(0, above=True), ((_PRODUCER, "sloBufferFactor"),)),
    Variable("PREDICTION_SERVER_URL", _urls, ((_PRODUCER, "predictionServerUrl"),)),
    Variable("TRAINING_SERVER_URL", _urls, ((_PRODUCER, "trainingServerUrl"),)),
    Variable("LATENCY_COALESCE_WINDOW_MS", _number(0), ((_PRODUCER, "coalesceWindowMs"),)),
    Variable("LATENCY_MAX_COALESCED_ROWS", _whole(0), ((_PRODUCER, "maxCoalescedRows"),)),
    Variable("LATENCY_MAX_CONCURRENT_DISPATCHES", _whole(1), ((_PRODUCER, "maxConcurrentDispatches"),)),
    Variable("LATENCY_MAX_SAMPLE_SIZE", _whole(1), ((_PRODUCER, "maxSampleSize"),)),
    Variable("LATENCY_FLUSH_INTERVAL_SEC", _number(0, above=True), ((_PRODUCER, "flushIntervalSec"),)),
    Variable("LATENCY_HTTP_TIMEOUT_SEC", _number(0, above=True), ((_PRODUCER, "httpTimeoutSec"),)),
)


def parameter_defaults(environ: Mapping[str, str]) -> Defaults:
    """What `environ` sets. Raises ConfigError that names the variable whose value cannot be used."""
    found: dict[str, dict[str, Any]] = {}
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            value = variable.parse(text)
        except ValueError as error:
            raise ConfigError(f"environment variable {variable.name}: expected {error}, got {text!r}") from None
        for plugin_type, parameter in variable.sets:
            found.setdefault(plugin_type, {})[parameter] = value
    return found
