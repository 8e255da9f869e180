"""Microseconds for one pick of the default profile (queue 2, KV cache 2, prefix 3, max-score), and for hashing a prompt.

Run it by hand: `python -m tests.bench.bench_pick`. Prints the best of several rounds, which other work on the machine disturbs
least. Every request has its own prompt: half of it is shared by all, as a system prompt is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter

from epp.api import (
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    WAITING_REQUESTS,
    Candidates,
    Request,
    Response,
    SchedulingResult,
    Scorer,
)
from epp.scheduling.observer import Unobserved
from epp.scheduling.profile import Profile
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from epp_plugins.prefix_chain import Chain, chain_seed
from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from epp_plugins.producers.inflight_load_producer import InflightLoadProducer
from epp_plugins.scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from epp_plugins.scorers.prefix_cache_scorer import PrefixCacheScorer
from epp_plugins.scorers.queue_scorer import QueueScorer
from tests.support.plugins import make_fleet, make_handle, make_plugin
from tests.support.scheduling import make_request

ROUNDS = 7
CALLS = 1000


def best_us(call: Callable[[int], object], *, calls: int = CALLS) -> float:
    """The fastest round's mean, in microseconds. `call` is given the call's number within its round."""
    best = float("inf")
    for _ in range(ROUNDS):
        before = perf_counter()
        for i in range(calls):
            call(i)
        best = min(best, perf_counter() - before)
    return best / calls * 1e6


class QueueLoop(Scorer):
    """queue-scorer, endpoint by endpoint."""

    type = "queue-loop"

    def score(self, request: Request, candidates: Candidates) -> list[float]:
        queues = [float(waiting) for waiting in candidates.column(WAITING_REQUESTS)]
        least, most = min(queues), max(queues)
        return [1.0 if most == least else (most - queue) / (most - least) for queue in queues]


class Bench:
    """The default profile over `count` endpoints with random loads, and the plugins that feed it."""

    def __init__(self, count: int) -> None:
        chance = random.Random(count)
        self.fleet = make_fleet(
            count,
            **{
                WAITING_REQUESTS: [float(chance.randrange(20)) for _ in range(count)],
                KV_CACHE_USAGE: [chance.random() for _ in range(count)],
                IN_FLIGHT_REQUESTS: [float(chance.randrange(4)) for _ in range(count)],
            },
        )
        # The real clock: autotuning looks at the engines' block sizes from time to time.
        handle = make_handle(self.fleet, name=ApproxPrefixCacheProducer.type, clock=perf_counter)
        self.prefix = make_plugin(ApproxPrefixCacheProducer, handle=handle)
        self.load = make_plugin(InflightLoadProducer, self.fleet)
        self.profile = Profile(
            "default",
            scorers=[
                (make_plugin(QueueScorer, self.fleet), 2.0),
                (make_plugin(KvCacheUtilizationScorer, self.fleet), 2.0),
                (make_plugin(PrefixCacheScorer, self.fleet), 3.0),
            ],
            picker=make_plugin(MaxScorePicker, self.fleet),
            observer=Unobserved(),
        )

    def loop_profile(self) -> Profile:
        """One scorer as somebody writes it who does not know numpy."""
        return self._alone(make_plugin(QueueLoop, self.fleet))

    def vector_profile(self) -> Profile:
        """The in-tree scorer with the same rule."""
        return self._alone(make_plugin(QueueScorer, self.fleet))

    def _alone(self, scorer: Scorer) -> Profile:
        picker = make_plugin(MaxScorePicker, self.fleet)
        return Profile("default", scorers=[(scorer, 1.0)], picker=picker, observer=Unobserved())

    def pick(self, request: Request) -> SchedulingResult:
        return SchedulingResult({"default": self.profile.run(request, self.fleet.candidates())}, "default")

    def produce(self, request: Request) -> None:
        self.prefix.produce(request, self.fleet.candidates())

    def whole(self, request: Request) -> None:
        """All that scheduling does for a request, from its data to the end of its accounting."""
        self.produce(request)
        self.load.produce(request, self.fleet.candidates())
        result = self.pick(request)
        self.prefix.pre_request(request, result)
        self.load.pre_request(request, result)
        response = Response()
        self.load.response_complete(request, response)
        self.prefix.response_complete(request, response)


def requests(size_bytes: int, count: int = CALLS) -> list[Request]:
    chance = random.Random(size_bytes)
    shared = chance.randbytes(size_bytes // 2)
    return [make_request(shared + chance.randbytes(size_bytes - len(shared))) for _ in range(count)]


def report(count: int) -> None:
    bench, some = Bench(count), requests(1024)
    for request in some:
        bench.whole(request)

    def both(i: int) -> None:
        bench.produce(some[i])
        bench.pick(some[i])

    hashing_us = best_us(lambda i: bench.produce(some[i]))
    print(f"{count} endpoints, prompts of 1 KiB")
    print(f"  hash the prompt and look it up            {hashing_us:8.2f} us")
    print(f"  pick (Profile.run), prompt looked up      {best_us(lambda i: bench.pick(some[i])):8.2f} us")
    print(f"  both                                      {best_us(both):8.2f} us")
    print(f"  both, index update, in-flight accounting  {best_us(lambda i: bench.whole(some[i])):8.2f} us")


def hashing(size_bytes: int, calls: int) -> float:
    data, seed = random.Random(0).randbytes(size_bytes), chain_seed("m", "")
    return best_us(lambda _: Chain(data, block_bytes=256, seed=seed), calls=calls)


def main() -> None:
    for count in (8, 512):
        report(count)
    print("hashing alone, blocks of 64 tokens")
    print(f"  1 KiB                                     {hashing(1024, CALLS):8.2f} us")
    print(f"  400 KB                                    {hashing(400_000, 20):8.2f} us")
    bench, long = Bench(8), requests(400_000, 20)
    took_us = best_us(lambda i: bench.whole(long[i]), calls=20)
    print("8 endpoints, prompts of 400 KB")
    print(f"  all of the above                          {took_us:8.2f} us")


if __name__ == "__main__":
    main()
