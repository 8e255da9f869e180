"""Compares what a producer of PrefixMatch has predicted with what engines answer: metrics, log, confidence. No I/O.

For one producer, of whatever kind: it hands over each answer and follows the advice that comes back. What becomes of answers is
`epp_plugins.cache_calibration`'s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Final

import msgspec

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_HIT_TOKENS,
    IN_FLIGHT_REQUESTS,
    METRICS_UPDATED_S,
    Endpoint,
    Floats,
    Handle,
    Metric,
    PrefixMatch,
    Response,
)
from epp_plugins.cache_calibration import Action, Advice, Calibrations, Cause, Verdict, judge

_TALLIED: Final = 8  # requests that are compared with metrics in one, for each that may or may not be among them


class _Tally(msgspec.Struct):
    """Requests of one endpoint since its metrics showed `hits`: sums of tokens.

    It begins when a page has just been read. `uncertain`: requests of which it is not known on which side of that page they
    are; `unseen`: those that ended since the last page.
    """

    read_s: float  # when the last page was read
    last_hits: float
    found_out: bool = False  # answers have shown a restart: that the metrics begin anew is no news
    begun: bool = False
    hits: float = 0.0
    uncertain: float = 0.0
    unseen: int = 0
    requests: int = 0
    prompts: int = 0
    predicted: float = 0.0
    tolerance: float = 0.0

    def begin(self, hits: float, uncertain: float) -> None:
        self.begun, self.hits, self.uncertain = True, hits, uncertain
        self.requests = self.prompts = 0
        self.predicted = self.tolerance = 0.0


class CacheCheck:
    """How right one producer is. Its metrics are labelled with the producer's name."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._calibrations = Calibrations()
        self._tell_cached: set[int] = set()  # rows of engines that have told a number of cached tokens
        metrics, name = handle.metrics, handle.name
        self._name = name
        self._tallies: dict[Endpoint, _Tally] = {}
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

    def compare(self, endpoint: Endpoint, match: PrefixMatch, response: Response, *, exact: bool) -> Advice | None:
        """Take in the end of a request that `endpoint` has served because of `match`.

        `exact`: its answer can be compared by itself. Otherwise, and where answers do not tell cached tokens, it counts towards
        a comparison of many with the engine's metrics.
        """
        row, usage = endpoint.row, response.usage
        if not endpoint.alive:
            return None
        if response.served_endpoint and response.served_endpoint != endpoint.host_port:
            return None  # the proxy has tried again elsewhere
        hits = endpoint.attributes.get(CACHE_HIT_TOKENS)
        tally = self._tallies.get(endpoint)
        if tally is not None and isinstance(hits, float) and hits < tally.last_hits:
            del self._tallies[endpoint]
            if not tally.found_out:
                return self._calibrations.reset(row)
        if exact and usage is not None and usage.prompt_tokens:
            cached = usage.cached_tokens
            if cached is not None:
                self._tell_cached.add(row)
            elif row in self._tell_cached:
                cached = 0  # vLLM leaves it out where it is 0
            if cached is not None:
                predicted = match.cached_tokens(row, usage.prompt_tokens)
                tolerance = self._tolerance(row, match, usage.prompt_tokens)
                if isinstance(hits, float):
                    self._tally_of(endpoint, hits).last_hits = hits
                return self._observe(endpoint, predicted, cached, tolerance)
        if isinstance(hits, float) and row not in self._tell_cached:
            counted = None if usage is None else usage.prompt_tokens
            return self._add(endpoint, hits, match, counted)
        return None

    def spoil(self, endpoint: Endpoint) -> None:
        """`endpoint` has read a prompt that counts for no comparison: its metrics show more than was predicted."""
        self._tallies.pop(endpoint, None)

    def _add(self, endpoint: Endpoint, hits: float, match: PrefixMatch, counted: int | None) -> Advice | None:
        """Once there are enough requests, compare what was predicted of all of them with what the metrics say.

        `counted`: the prompt's tokens, where the engine has told them. What four bytes are for it is not known otherwise.
        """
        row = endpoint.row
        tally = self._tally_of(endpoint, hits)
        tally.last_hits = hits
        read_s = self._handle.fleet.columns[METRICS_UPDATED_S].item(row)
        if read_s != tally.read_s:
            if not tally.begun:
                tally.begin(hits, 1 + self._under_way(endpoint))
            tally.read_s, tally.unseen = read_s, 0
        if not tally.begun:
            return None
        tally.unseen += 1
        tally.requests += 1
        prompt_tokens = counted or match.prompt_tokens
        predicted = match.cached_tokens(row, prompt_tokens)
        tally.prompts += prompt_tokens
        tally.predicted += predicted
        tally.tolerance += self._tolerance(row, match, prompt_tokens) + (0.0 if counted else predicted / 2)
        count, uncertain = tally.requests, tally.unseen + self._under_way(endpoint)
        if count < _TALLIED * (tally.uncertain + uncertain):
            return None
        mean, cached = tally.predicted / count, (hits - tally.hits) / count
        tolerance = tally.tolerance / count + (tally.uncertain + uncertain) / count * tally.prompts / count
        tally.begin(hits, uncertain)
        return self._observe(endpoint, mean, cached, tolerance)

    def _tally_of(self, endpoint: Endpoint, hits: float) -> _Tally:
        tally = self._tallies.get(endpoint)
        if tally is None:
            read_s = self._handle.fleet.columns[METRICS_UPDATED_S].item(endpoint.row)
            tally = self._tallies[endpoint] = _Tally(read_s, hits)
        return tally

    def _under_way(self, endpoint: Endpoint) -> float:
        return float(self._handle.fleet.columns[IN_FLIGHT_REQUESTS].item(endpoint.row))

    def _observe(self, endpoint: Endpoint, predicted: float, cached: float, tolerance: float) -> Advice | None:
        verdict = judge(predicted, cached, tolerance)
        self._count(endpoint, verdict, predicted - cached)
        advice = self._calibrations.observe(endpoint.row, verdict, cached=cached, nothing=cached <= tolerance)
        tally = self._tallies.get(endpoint)
        if tally is not None and advice is not None and advice.action is Action.PURGE:
            tally.found_out = True
        return advice

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

    def answers(self, row: int) -> int:
        """How many answers of the endpoint in `row` have been compared."""
        calibration = self._calibrations.of(row)
        return 0 if calibration is None else calibration.answers

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
        self._tallies.pop(endpoint, None)

    def _tolerance(self, row: int, match: PrefixMatch, prompt_tokens: int) -> float:
        """Tokens: a block of ours and one of the engine's, as only whole ones count; and a tenth of the prompt, as the bytes of
        tokens differ from part to part."""
        engine_block = max(0.0, self._handle.fleet.columns[CACHE_BLOCK_SIZE].item(row))
        scale = max(1.0, prompt_tokens / match.prompt_tokens) if match.prompt_tokens else 1.0
        return match.block_size_tokens * scale + engine_block + prompt_tokens / 10
