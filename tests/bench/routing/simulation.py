"""One run: a trace, a policy, a fleet; what each request got."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from epp.api import Floats, Mask, Nowhere, Outside, RequestError, Usage
from tests.bench.routing.arrivals import Arrival
from tests.bench.routing.fleet import Server, Timeline
from tests.bench.routing.judging import Judge
from tests.bench.routing.picker import Bodies, EndpointPicker, Exchange
from tests.bench.routing.training import SimulatedOutside

_SCRAPE_S: Final = 0.05
_POLL_S: Final = 1.0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What surrounds a policy. `speeds`: of each server, 1 as the others."""

    speeds: tuple[float, ...] = (1.0,) * 8
    bodies: Bodies = "full"
    pickers: int = 1  # that do not know of each other, and take turns
    scrape_s: float = _SCRAPE_S
    training: Literal["on", "off", "poisoned"] = "on"  # of the policies that predict; poisoned: from the middle on
    judged: bool = False  # compare picks with what each server would have made of the request
    slo_ttft_ms: float = 0.0  # that every request asks for; 0: none does
    seed: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run, by request in the order of arrival: seconds, tokens; NaN where it was refused."""

    ttft_s: Floats
    e2e_s: Floats
    cached_tokens: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    server: Floats
    judged: dict[str, float]

    slo_ttft_ms: float = 0.0

    @property
    def numbers(self) -> dict[str, float]:
        """TTFT and end-to-end percentiles in ms, ms per output token, share of prompt tokens that were cached."""
        served = np.isfinite(self.e2e_s)
        ttft_s, e2e_s, output = self.ttft_s[served], self.e2e_s[served], self.output_tokens[served]
        several = output > 1
        tpot_s = (e2e_s - ttft_s)[several] / (output[several] - 1)
        return {
            "ttft_p50": float(np.percentile(ttft_s, 50)) * 1000,
            "ttft_p90": float(np.percentile(ttft_s, 90)) * 1000,
            "ttft_mean": float(ttft_s.mean()) * 1000,
            "e2e_p90": float(np.percentile(e2e_s, 90)) * 1000,
            "tpot": float(tpot_s.mean()) * 1000,
            "cached": float(self.cached_tokens[served].sum() / self.prompt_tokens[served].sum()),
            **self._kept_promises(served),
            **self.judged,
        }

    def _kept_promises(self, served: Mask) -> dict[str, float]:
        """Of the requests that were served and of all, the share that was in time; the share that was refused."""
        if not self.slo_ttft_ms:
            return {}
        in_time = int((self.ttft_s[served] * 1000 <= self.slo_ttft_ms).sum())
        return {
            "slo_met": in_time / int(served.sum()),
            "goodput": in_time / len(served),
            "refused": 1.0 - float(served.mean()),
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
                config,
                self._servers,
                clock=self._timeline,
                seed=setting.seed + 10 * i,
                outside=self._outside(setting),
                bodies=setting.bodies,
            )
            for i in range(setting.pickers)
        ]
        self._judge = Judge(self._servers) if setting.judged else None
        self._scrape_s = setting.scrape_s
        self._slo_ttft_ms = setting.slo_ttft_ms
        self._left = len(requests)
        self._ttft_s, self._e2e_s, self._cached, self._server = (np.zeros(len(requests)) for _ in range(4))

    def outcome(self) -> Outcome:
        for i, picker in enumerate(self._pickers):
            # Not all at the same moment.
            self._timeline.at(i * self._scrape_s / len(self._pickers), partial(self._scrape, picker))
            self._timeline.at(_POLL_S, partial(self._poll, picker))
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
            {} if self._judge is None else self._judge.numbers,
            self._slo_ttft_ms,
        )

    def _outside(self, setting: Setting) -> Outside:
        if setting.training == "off":
            return Nowhere()
        middle_s = self._requests[len(self._requests) // 2].at_s
        poisoned_from_s = middle_s if setting.training == "poisoned" else np.inf
        return SimulatedOutside(self._timeline, poisoned_from_s=poisoned_from_s, seed=setting.seed)

    def _poll(self, picker: EndpointPicker) -> None:
        picker.poll()
        self._timeline.at(self._timeline.now_s + _POLL_S, partial(self._poll, picker))

    def _scrape(self, picker: EndpointPicker) -> None:
        picker.scrape()
        self._timeline.at(self._timeline.now_s + self._scrape_s, partial(self._scrape, picker))

    def _arrive(self, number: int) -> None:
        if number + 1 < len(self._requests):
            self._timeline.at(self._requests[number + 1].at_s, partial(self._arrive, number + 1))
        arrival = self._requests[number]
        prompt = arrival.prompt()
        picker = self._pickers[number % len(self._pickers)]
        try:
            server, exchange = picker.decide(number, prompt, arrival.output_tokens, slo_ttft_ms=self._slo_ttft_ms)
        except RequestError:
            self._ttft_s[number] = self._e2e_s[number] = np.nan
            self._is_over()
            return
        self._server[number] = server
        if self._judge is not None:
            self._judge.picked(number, prompt, exchange.request, self._timeline.now_s)
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
        if self._judge is not None:
            self._judge.ended(exchange.request)
        self._is_over()

    def _is_over(self) -> None:
        self._left -= 1
        self._progress(len(self._requests) - self._left)
