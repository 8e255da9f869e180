"""Many picks at once, before any metric can change: what keeps them from all going to one endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from epp.api import Fleet, Request, Response, SchedulingResult, Scorer
from epp.scheduling.observer import Unobserved
from epp.scheduling.profile import Profile
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from epp_plugins.producers.inflight_load_producer import InflightLoadProducer
from epp_plugins.scorers.active_request_scorer import ActiveRequestScorer
from epp_plugins.scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from epp_plugins.scorers.prefix_cache_scorer import PrefixCacheScorer
from epp_plugins.scorers.queue_scorer import QueueScorer
from epp_plugins.scorers.token_load_scorer import TokenLoadScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


def default_scorers(fleet: Fleet) -> list[tuple[Scorer, float]]:
    return [
        (make_plugin(QueueScorer, fleet), 2.0),
        (make_plugin(KvCacheUtilizationScorer, fleet), 2.0),
        (make_plugin(PrefixCacheScorer, fleet), 3.0),
    ]


def spread(scorers: Callable[[Fleet], list[tuple[Scorer, float]]], prompt: Callable[[int], bytes]) -> list[int]:
    """How many of 200 requests, none of which ends, each of 4 equal endpoints gets; the largest first."""
    fleet = make_fleet(4)
    prefix, load = make_plugin(ApproxPrefixCacheProducer, fleet), make_plugin(InflightLoadProducer, fleet)
    profile = Profile(
        "default", scorers=scorers(fleet), picker=make_plugin(MaxScorePicker, fleet), observer=Unobserved()
    )
    counts: Counter[str] = Counter()
    for i in range(200):
        request = make_request(prompt(i))
        prefix.produce(request, fleet.candidates())
        load.produce(request, fleet.candidates())
        result = SchedulingResult({"default": profile.run(request, fleet.candidates())}, "default")
        load.pre_request(request, result)
        prefix.pre_request(request, result)
        counts[result.target.name] += 1
    return [n for _, n in counts.most_common()]


def different(i: int) -> bytes:
    return i.to_bytes(4, "little") * 256


def test_the_default_profile_spreads_different_prompts_evenly() -> None:
    assert spread(default_scorers, different) == [50, 50, 50, 50]


def test_the_default_profile_keeps_one_prompt_where_it_is_cached() -> None:
    assert spread(default_scorers, lambda i: b"same" * 256) == [200]


def test_prompts_shorter_than_a_block_spread_evenly_though_equal() -> None:
    assert spread(default_scorers, lambda i: b"same") == [50, 50, 50, 50]


def test_active_requests_spread_evenly() -> None:
    assert spread(lambda fleet: [(make_plugin(ActiveRequestScorer, fleet), 1.0)], lambda i: b"same" * 256) == [50] * 4


def test_token_load_spreads_evenly() -> None:
    assert spread(lambda fleet: [(make_plugin(TokenLoadScorer, fleet), 1.0)], different) == [50] * 4


def test_requests_that_end_make_room_again() -> None:
    fleet = make_fleet(2)
    load = make_plugin(InflightLoadProducer, fleet)
    profile = Profile("default", picker=make_plugin(MaxScorePicker, fleet), observer=Unobserved())

    def send() -> tuple[Request, str]:
        request = make_request()
        result = SchedulingResult({"default": profile.run(request, fleet.candidates())}, "default")
        load.pre_request(request, result)
        return request, result.target.name

    first, name = send()
    send()
    load.response_complete(first, Response())

    assert send()[1] == name
