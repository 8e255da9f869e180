"""Synthetic latencies with known truth: a model of the world, not a measurement of one.

A request has a prompt, an endpoint has a load; TTFT and TPOT are drawn around a true middle with lognormal noise,
rarely a heavy tail, and a factor per endpoint. `Requests.true_*` is the true middle, so that errors can be told from
noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COLUMN, Floats, new_features
from epp_predictor.samples import ENDPOINT, FIRST_FEATURE, OBSERVED, WIDTH

TTFT_NOISE: Final = 0.13
TPOT_NOISE: Final = 0.08


@dataclass(frozen=True)
class Requests:
    features: Floats
    endpoints: NDArray[np.intp]
    ttft_ms: Floats
    tpot_ms: Floats
    true_ttft_ms: Floats
    true_tpot_ms: Floats

    def samples(self) -> Floats:
        """As rows to learn from, all of them of time 0."""
        rows = np.zeros((len(self.features), WIDTH))
        rows[:, ENDPOINT] = self.endpoints
        rows[:, OBSERVED["ttft"]], rows[:, OBSERVED["tpot"]] = self.ttft_ms, self.tpot_ms
        rows[:, FIRST_FEATURE:] = self.features
        return rows


def draw(
    count: int,
    chance: np.random.Generator,
    *,
    endpoints: int = 8,
    load: float = 1.0,
    factors: Floats | None = None,
    prompts: tuple[float, float] = (16, 12_000),
    tails: bool = True,
    oldest_s: float = 0.05,
) -> Requests:
    """`load` 0: endpoints at rest. `factors`: how much slower each endpoint is than the model of all, by number (0 is not
    used). `oldest_s`: of metrics."""
    at = chance.integers(1, endpoints + 1, count)
    busy = np.clip(chance.gamma(2.0, 0.5 * load, count), 0, 6)
    features = new_features(count)
    put = {
        "kv_cache_percentage": np.clip(0.25 * busy + chance.normal(0, 0.08, count), 0, 1),
        "input_token_length": np.clip(np.exp(chance.normal(6.5, 1.2, count)), *prompts).round(),
        "num_request_running": chance.poisson(8 * busy),
        "num_request_waiting": chance.poisson(np.maximum(busy - 1.5, 0) * 3),
        "prefix_cache_score": np.where(chance.random(count) < 0.5, chance.beta(4, 2, count), 0).round(2),
        "uncached_tokens_in_flight": (chance.gamma(1.5, 900 * busy + 1)).round(),
        "metric_age_s": chance.uniform(0, oldest_s, count),
    }
    put["decode_requests_in_flight"] = (put["num_request_running"] * 0.8).round()
    put["prefill_requests_in_flight"] = put["num_request_running"] - put["decode_requests_in_flight"]
    put["prefill_tokens_in_flight"] = (put["uncached_tokens_in_flight"] * 2.2).round()
    put["decode_tokens_in_flight"] = put["decode_requests_in_flight"] * 180
    put["prefill_backlog_tokens"] = (put["uncached_tokens_in_flight"] * chance.uniform(0.3, 0.9, count)).round()
    for name, values in put.items():
        features[:, COLUMN[name]] = values
    own = np.ones(endpoints + 1) if factors is None else factors
    true_ttft, true_tpot = true_ttft_ms(features) * own[at], true_tpot_ms(features) * own[at]
    tail = np.where(chance.random((2, count)) < 0.015 * tails, chance.exponential(0.8, (2, count)), 0.0)
    return Requests(
        features,
        at,
        true_ttft * np.exp(chance.normal(0, TTFT_NOISE, count) + tail[0]),
        true_tpot * np.exp(chance.normal(0, TPOT_NOISE, count) + tail[1]),
        true_ttft,
        true_tpot,
    )


def true_ttft_ms(features: Floats) -> Floats:
    f = {name: features[:, number] for name, number in COLUMN.items()}
    effective = (1 - f["prefix_cache_score"]) * f["input_token_length"]
    prefill = 0.06 * effective + 1.2e-6 * effective**2
    queue = 21 * f["num_request_waiting"] + 0.055 * f["prefill_backlog_tokens"]
    preempted = 900 * np.maximum(f["kv_cache_percentage"] - 0.93, 0)
    # Saturating sharing of steps: no term of the prior has this shape.
    shared = 1 + 0.6 * np.tanh(f["num_request_running"] / 25)
    ttft: Floats = 12 + prefill * shared + queue + preempted
    return ttft


def true_tpot_ms(features: Floats) -> Floats:
    f = {name: features[:, number] for name, number in COLUMN.items()}
    steps = 6 + 0.22 * f["num_request_running"] + 9 * np.tanh(f["prefill_tokens_in_flight"] / 4000)
    tpot: Floats = steps * (1 + 0.3 * np.maximum(f["kv_cache_percentage"] - 0.85, 0))
    return tpot
