"""One run: a trace, a policy, a fleet; what each request got."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from epp.api import Floats, Usage
from tests.bench.routing.arrivals import Arrival
from tests.bench.routing.fleet import Server, Timeline
from tests.bench.routing.picker import Bodies, EndpointPicker, Exchange

_SCRAPE_S: Final = 0.05


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What surrounds a policy. `speeds`: of each server, 1 as the others."""

    speeds: tuple[float, ...] = (1.0,) * 8
    bodies: Bodies = "full"
    pickers: int = 1  # that do not know of each other, and take turns
    scrape_s: float = _SCRAPE_S
    seed: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run, by request in the order of arrival: seconds, tokens."""

    ttft_s: Floats
    e2e_s: Floats
    cached_tokens: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    server: Floats

    @property
    def numbers(self) -> dict[str, float]:
        """TTFT and end-to-end percentiles in ms, ms per output token, share of prompt tokens that were cached."""
        several = self.output_tokens > 1
        tpot = (self.e2e_s - self.ttft_s)[several] / (self.output_tokens[several] - 1)
        return {
            "ttft_p50": float(np.percentile(self.ttft_s, 50)) * 1000,
            "ttft_p90": float(np.percentile(self.ttft_s, 90)) * 1000,
            "ttft_mean": float(self.ttft_s.mean()) * 1000,
            "e2e_p90": float(np.percentile(self.e2e_s, 90)) * 1000,
            "tpot": float(tpot.mean()) * 1000,
            "cached": float(self.cached_tokens.sum() / self.prompt_tokens.sum()),
        }


def simulate(
    config: Path | str,
    requests: Sequence[Arrival],
    setting: Setting,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Let `requests` come, and wait until the last of them is answered. Same arguments, same outcome."""
    return _Run(config, requests, setting, progress).outcome()


class _Run:
    def __init__(
        self, config: Path | str, requests: Sequence[Arrival], setting: Setting, progress: Callable[[int], None]
    ) -> None:
        self._timeline = Timeline()
        self._requests = requests
        self._progress = progress
        self._servers = [Server(self._timeline, speed=speed) for speed in setting.speeds]
        self._pickers = [
            EndpointPicker(
                config, self._servers, clock=self._timeline, seed=setting.seed + 10 * i, bodies=setting.bodies
            )
            for i in range(setting.pickers)
        ]
        self._scrape_s = setting.scrape_s
        self._left = len(requests)
        self._ttft_s, self._e2e_s, self._cached, self._server = (np.zeros(len(requests)) for _ in range(4))

    def outcome(self) -> Outcome:
        for i, picker in enumerate(self._pickers):
            # Not all at the same moment.
            self._timeline.at(i * self._scrape_s / len(self._pickers), partial(self._scrape, picker))
        if self._requests:
            self._timeline.at(self._requests[0].at_s, partial(self._arrive, 0))
        while self._left and self._timeline.step():
            pass
        assert not any(picker.in_flight for picker in self._pickers)
        return Outcome(
            self._ttft_s,
            self._e2e_s,
            self._cached,
            np.array([float(arrival.prompt_tokens) for arrival in self._requests]),
            np.array([float(arrival.output_tokens) for arrival in self._requests]),
            self._server,
        )

    def _scrape(self, picker: EndpointPicker) -> None:
        picker.scrape()
        self._timeline.at(self._timeline.now_s + self._scrape_s, partial(self._scrape, picker))

    def _arrive(self, number: int) -> None:
        if number + 1 < len(self._requests):
            self._timeline.at(self._requests[number + 1].at_s, partial(self._arrive, number + 1))
        arrival = self._requests[number]
        prompt = arrival.prompt()
        picker = self._pickers[number % len(self._pickers)]
        server, exchange = picker.decide(number, prompt, arrival.output_tokens)
        self._server[number] = server
        sequence = self._servers[server].submit(
            prompt,
            arrival.output_tokens,
            on_first=partial(self._first, number, exchange),
            on_end=lambda: self._end(number, exchange, sequence.cached_tokens),
        )
        exchange.sent()

    def _first(self, number: int, exchange: Exchange) -> None:
        self._ttft_s[number] = self._timeline.now_s - self._requests[number].at_s
        exchange.first_token()

    def _end(self, number: int, exchange: Exchange, cached_tokens: int) -> None:
        arrival = self._requests[number]
        self._e2e_s[number] = self._timeline.now_s - arrival.at_s
        self._cached[number] = cached_tokens
        exchange.end(
            Usage(
                prompt_tokens=arrival.prompt_tokens,
                completion_tokens=arrival.output_tokens,
                cached_tokens=cached_tokens,
            )
        )
        self._left -= 1
        self._progress(len(self._requests) - self._left)
