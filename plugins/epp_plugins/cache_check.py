"""Compares what a producer of PrefixMatch has predicted with what engines answer: metrics, log, confidence. No I/O.

For one producer, of whatever kind: it hands over each answer and follows the advice that comes back. What becomes of answers is
`epp_plugins.cache_calibration`'s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

from epp.api import CACHE_BLOCK_SIZE, Endpoint, Floats, Handle, Metric, PrefixMatch, Response
from epp_plugins.cache_calibration import Action, Advice, Calibrations, Cause, Verdict, judge


class CacheCheck:
    """How right one producer is. Its metrics are labelled with the producer's name."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._calibrations = Calibrations()
        self._tell_cached: set[int] = set()  # rows of engines that have told a number of cached tokens
        metrics, name = handle.metrics, handle.name
        self._name = name
        self._counters: dict[Endpoint, dict[Verdict, Metric]] = {}
        self._results = metrics.counter(
            "llm_epp_prefix_predictions",
            "Answers by what they say of the predicted cached tokens: right, over, under, or trivial (none and none)",
            ("producer", "endpoint", "result"),
        )
        self._over = metrics.counter(
            "llm_epp_prefix_overpredicted_tokens",
            "Tokens predicted to be cached that were not",
            ("producer", "endpoint"),
        )
        self._under = metrics.counter(
            "llm_epp_prefix_underpredicted_tokens",
            "Tokens cached that were not predicted to be",
            ("producer", "endpoint"),
        )
        corrections = metrics.counter(
            "llm_epp_prefix_index_corrections",
            "What answers advised for an endpoint whose cache was not as believed: purge, shrink, grow or warn",
            ("producer", "action"),
        )
        self._corrections = {action: corrections.labels(name, action.value) for action in Action}

    @property
    def confidence(self) -> Floats:
        """For `PrefixMatch.confidence`."""
        return self._calibrations.confidence

    def fit(self, rows: int) -> None:
        """Make `confidence` at least `rows` long."""
        self._calibrations.fit(rows)

    def compare(self, endpoint: Endpoint, match: PrefixMatch, response: Response) -> Advice | None:
        """Take in the answer to a request that was sent to `endpoint` because of `match`."""
        usage, row = response.usage, endpoint.row
        if usage is None or not usage.prompt_tokens or not endpoint.alive:
            return None
        if response.served_endpoint and response.served_endpoint != endpoint.host_port:
            return None  # the proxy has tried again elsewhere
        cached, prompt_tokens = usage.cached_tokens, usage.prompt_tokens
        if cached is not None:
            self._tell_cached.add(row)
        elif row in self._tell_cached:
            cached = 0  # vLLM leaves it out where it is 0
        else:
            return None
        predicted = match.cached_tokens(row, prompt_tokens)
        tolerance = self._tolerance(row, match, prompt_tokens)
        verdict = judge(predicted, cached, tolerance)
        self._count(endpoint, verdict, predicted - cached)
        return self._calibrations.observe(row, verdict, cached=cached, nothing=cached <= tolerance)

    def _count(self, endpoint: Endpoint, verdict: Verdict, difference: float) -> None:
        counters = self._counters.get(endpoint)
        if counters is None:
            counters = self._counters[endpoint] = {
                v: self._results.labels(self._name, endpoint.name, v.value) for v in Verdict
            }
        counters[verdict].inc()
        if verdict is Verdict.OVER:
            self._over.labels(self._name, endpoint.name).inc(difference)
        elif verdict is Verdict.UNDER:
            self._under.labels(self._name, endpoint.name).inc(-difference)

    def tell(self, endpoint: Endpoint, advice: Advice, *, done: bool, dropped: int) -> None:
        """Say that `advice` has been followed (or, not `done`, would have been), which cost `dropped` blocks."""
        self._corrections[advice.action].inc()
        if advice.cause is None or not advice.news:
            return
        fields = {
            "endpoint": endpoint.name,
            "address": endpoint.host_port,
            "cause": advice.cause.value,
            "action": advice.action.value if done else "none",
            "blocks_dropped": dropped,
            **self.state(endpoint.row),
        }
        level = logging.INFO if advice.cause is Cause.RESET else logging.WARNING
        self._handle.log.log(level, "cached tokens are not as predicted", extra={"fields": fields})

    def limit(self, row: int, limit: int | None) -> None:
        """Note the most blocks to believe in, after advice to shrink or to grow; None: as many as the engine says."""
        calibration = self._calibrations.of(row)
        if calibration is not None:
            calibration.limit = limit

    def limits(self) -> Iterator[tuple[int, int]]:
        """Rows of endpoints that are believed to hold less than their engines say, and at most how many blocks."""
        for row, calibration in self._calibrations.items():
            if calibration.limit is not None:
                yield row, calibration.limit

    def state(self, row: int) -> dict[str, object]:
        """For debug pages. Empty before the first answer."""
        calibration = self._calibrations.of(row)
        if calibration is None:
            return {}
        confidence = calibration.confidence
        return {
            "answers": calibration.answers,
            "confidence": None if math.isnan(confidence) else round(confidence, 3),
            "finding": None if calibration.cause is None else calibration.cause.value,
        }

    def forget(self, endpoint: Endpoint) -> None:
        """It is gone, or has only just come: another may have had its row."""
        self._calibrations.drop(endpoint.row)
        self._tell_cached.discard(endpoint.row)
        self._counters.pop(endpoint, None)

    def _tolerance(self, row: int, match: PrefixMatch, prompt_tokens: int) -> float:
        """Tokens: a block of ours and one of the engine's, as only whole ones count; and a tenth of the prompt, as the bytes of
        tokens differ from part to part."""
        engine_block = max(0.0, self._handle.fleet.columns[CACHE_BLOCK_SIZE].item(row))
        scale = max(1.0, prompt_tokens / match.prompt_tokens) if match.prompt_tokens else 1.0
        return match.block_size_tokens * scale + engine_block + prompt_tokens / 10
