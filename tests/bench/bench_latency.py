"""What latency prediction adds inside the EPP: `python -m tests.bench.bench_latency [--profile]`.

Each figure is the least of several rounds, in µs of CPU time of this process; `ratio`, of a request with prediction to one
without, is the median of pairs that were measured one after the other. The model was fitted on synthetic latencies.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter, process_time

import numpy as np

from epp.api import LATENCY_RECORD, METRICS_UPDATED_S, PREFIX_MATCH, PrefixMatch, Request, Response, data_key
from epp.config import resolved_of
from epp.director.director import Director
from epp.observability.explain import KEPT
from epp.server.session import ExtProc
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_predictor.fitting import Recipe
from tests.bench.bench_request import REQUESTS, ROUNDS, conversations, run
from tests.support.configs import HEAD
from tests.support.latency import School, model
from tests.support.outside import handle_with
from tests.support.plugins import Clock, make_fleet, make_plugin
from tests.support.scheduling import make_request, picked
from tests.support.service import make_director

PROFILE = """
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: prefix-cache-scorer}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
"""
TOKEN = b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" word"}]}\n\n'
MODEL = model(trees=Recipe().trees)
LIMITS = {32: 110.0, 128: 300.0}
PATHS = ("default", "predicting")
AT_ONCE = 50


class Bench:
    """A producer with a model, in front of `count` endpoints with different loads."""

    def __init__(self, count: int) -> None:
        chance = np.random.default_rng(0)
        self.clock = Clock()
        self.fleet = make_fleet(
            count, kv_cache_usage=chance.random(count).tolist(), waiting_requests=chance.integers(0, 9, count).tolist()
        )
        self.fleet.columns[METRICS_UPDATED_S][:] = self.clock.now - 0.03
        handle = handle_with(School(MODEL), self.fleet, name=PredictedLatencyProducer.type, clock=self.clock)
        self.producer = make_plugin(PredictedLatencyProducer, handle=handle)
        self.producer.start()
        for endpoint in self.fleet.candidates():
            self.producer.endpoint_added(endpoint)
        self.producer.poll()
        self.match = PrefixMatch(np.floor(8 * chance.random(self.fleet.capacity)), 16, 64, 1030)

    def requests(self, count: int) -> list[Request]:
        made = []
        for _ in range(count):
            request = make_request(b"x" * 4120)
            request.payload.streaming = True
            request.data[data_key(PREFIX_MATCH)] = self.match
            made.append(request)
        return made

    def predict_us(self) -> float:
        """Features, prediction of both latencies with their intervals, and what is published of them."""
        candidates = self.fleet.candidates()
        return least_us(self.requests(ROUNDS * REQUESTS), lambda r: self.producer.produce(r, candidates))

    def predict_p99_us(self) -> float:
        """The same, the slowest of a hundred, by the clock."""
        candidates, took_s = self.fleet.candidates(), []
        for request in self.requests(ROUNDS * REQUESTS):
            before_s = perf_counter()
            self.producer.produce(request, candidates)
            took_s.append(perf_counter() - before_s)
            request.state.clear()  # as at its end: what it held is used again
            request.data.clear()
        return float(np.percentile(took_s[REQUESTS:], 99)) * 1e6

    def whole_us(self, chunks: int) -> float:
        """From the prediction to the end of a stream of so many tokens."""
        result, candidates = picked(self.fleet, 0), self.fleet.candidates()
        producer, clock = self.producer, self.clock

        def whole(request: Request) -> None:
            producer.produce(request, candidates)
            producer.pre_request(request, result)
            response = Response(status=200, streaming=True, body_seen=True)
            producer.response_received(request, response)
            for _ in range(chunks):
                clock.now += 0.01
                producer.response_chunk(request, response, TOKEN)
            producer.response_ending(request, response)
            producer.response_complete(request, response)
            assert request.data[data_key(LATENCY_RECORD)].tokens == chunks

        return least_us(self.requests(ROUNDS * REQUESTS), whole)


def least_us(requests: Sequence[Request], work: Callable[[Request], object]) -> float:
    """The least mean of several rounds, in µs."""
    least = float("inf")
    for start in range(0, len(requests), REQUESTS):
        before = process_time()
        for request in requests[start : start + REQUESTS]:
            work(request)
        least = min(least, (process_time() - before) / REQUESTS)
    return least * 1e6


def director(*, predicting: bool) -> Director:
    """The default profile over eight endpoints, with or without prediction by a model."""
    more = "- {type: predicted-latency-producer}" if predicting else ""
    outside = School(MODEL) if predicting else None
    made = make_director(
        *[f"127.0.0.1:{8000 + i}" for i in range(8)],
        config=f"{HEAD}plugins:\n{more}{PROFILE}",
        outside=outside,
        keep=KEPT,
    )
    if predicting:
        producer = made.pipeline.plugins["predicted-latency-producer"]
        assert isinstance(producer, PredictedLatencyProducer)
        producer.poll()
    assert ("predicted-latency-producer" in resolved_of(made.pipeline).plugins) is predicting
    return made


def side_by_side(services: Mapping[str, ExtProc]) -> dict[str, float]:
    """Whole requests, some by one and some by the other in turn, so that what else the machine does troubles both alike."""
    made = conversations(ROUNDS * REQUESTS)
    for service in services.values():
        for messages in made[:REQUESTS]:
            run(service, messages)
    took: dict[str, list[float]] = {name: [] for name in services}
    for start in range(0, len(made), AT_ONCE):
        for name, service in services.items():
            before = process_time()
            for messages in made[start : start + AT_ONCE]:
                run(service, messages)
            took[name].append((process_time() - before) / AT_ONCE * 1e6)
    found = {f"{name}_us": min(times) for name, times in took.items()}
    return found | {"ratio": median(p / d for d, p in zip(*(took[name] for name in PATHS), strict=True))}


def figures() -> dict[str, float]:
    found = {f"predict_{count}_us": Bench(count).predict_us() for count in LIMITS}
    found |= {f"predict_{count}_p99_us": Bench(count).predict_p99_us() for count in LIMITS}
    bench = Bench(8)
    found["predict_8_us"] = bench.predict_us()
    whole_us = bench.whole_us(2)
    found["follow_us"], found["chunk_us"] = whole_us - found["predict_8_us"], (bench.whole_us(34) - whole_us) / 32
    services = {name: ExtProc(director(predicting=name == "predicting"), max_body_bytes=1 << 24) for name in PATHS}
    found |= side_by_side(services)
    return found


def main() -> None:
    if "--profile" in sys.argv:
        service, made = ExtProc(director(predicting=True), max_body_bytes=1 << 24), conversations(ROUNDS * REQUESTS)
        profile = cProfile.Profile()
        profile.enable()
        for messages in made:
            run(service, messages)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return
    for name, value in figures().items():
        print(f"{value:8.2f}  {name}")


if __name__ == "__main__":
    main()
