"""A pool of endpoints that are served, learnt from and changed, without sockets or waiting: time is simulated.

Requests and latencies are those of `latency_world`. The trainer fits when it is due; the predictor takes what it publishes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from epp_predictor import Predictor
from epp_predictor.features import Floats
from epp_predictor.trainer import Trainer, TrainerSettings
from tests.support.latency_world import draw


@dataclass
class Seen:
    """Of each request: whether the 90 % intervals held, errors against the truth, and where it ran."""

    within: list[tuple[bool, bool]] = field(default_factory=list)
    errors: list[tuple[float, float]] = field(default_factory=list)
    endpoints: list[int] = field(default_factory=list)

    def coverage(self, start: int = 0, end: int | None = None, *, endpoint: int | None = None) -> tuple[float, float]:
        """Share of TTFTs and TPOTs within their intervals."""
        chosen = np.array(self.within[start:end], dtype=float)
        if endpoint is not None:
            chosen = chosen[np.array(self.endpoints[start:end]) == endpoint]
        ttft, tpot = chosen.mean(axis=0).tolist()
        return ttft, tpot

    def median_errors(self, start: int = 0, end: int | None = None) -> tuple[float, float]:
        """Median of |predicted / true - 1| for TTFT and TPOT."""
        ttft, tpot = np.median(np.array(self.errors[start:end]), axis=0).tolist()
        return ttft, tpot


class Pool:
    """`endpoints` endpoints at `per_s` requests a second in all."""

    def __init__(self, seed: int, *, endpoints: int = 8, per_s: float = 50.0) -> None:
        self.now_s = 1_000_000.0
        self.factors = np.ones(endpoints + 1)
        self._chance = np.random.default_rng(seed)
        self._endpoints = endpoints
        self._gap_s = 1 / per_s
        self._rows: list[Floats] = []
        self.trainer = Trainer(TrainerSettings())
        self.predictor = Predictor(on_sample=self._rows.append, clock=lambda: self.now_s)
        for number in range(endpoints):
            self.predictor.endpoint(f"s{number + 1}")
        self.published = 0

    def serve(self, count: int, *, load: float = 1.0) -> Seen:
        """Serve `count` requests, twenty at a time; those are predicted before any of them has ended."""
        seen = Seen()
        for start in range(0, count, 20):
            self._serve(min(20, count - start), load, seen)
        return seen

    def _serve(self, count: int, load: float, seen: Seen) -> None:
        requests = draw(count, self._chance, endpoints=self._endpoints, load=load, factors=self.factors)
        prediction = self.predictor.predict(requests.features, requests.endpoints)
        ttft, tpot = prediction.ttft, prediction.tpot
        if ttft is not None and tpot is not None:
            pairs = ((requests.ttft_ms, ttft), (requests.tpot_ms, tpot))
            held = [(values >= e.low_ms) & (values <= e.high_ms) for values, e in pairs]
            seen.within += list(zip(*(h.tolist() for h in held), strict=True))
            apart = np.abs(ttft.ms / requests.true_ttft_ms - 1), np.abs(tpot.ms / requests.true_tpot_ms - 1)
            seen.errors += list(zip(*(a.tolist() for a in apart), strict=True))
            seen.endpoints += requests.endpoints.tolist()
        for i in range(count):
            self.now_s += self._gap_s
            decision = prediction.keep(i)
            self.predictor.observe(decision, ttft_ms=float(requests.ttft_ms[i]), tpot_ms=float(requests.tpot_ms[i]))
        self.trainer.add(np.array(self._rows), self.now_s)
        self._rows.clear()
        if (reason := self.trainer.due(self.now_s)) and (s := self.trainer.train(self.now_s, reason).snapshot):
            self.predictor.publish(s)
            self.published += 1
