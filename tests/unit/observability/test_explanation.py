"""What is said of decisions that are rarer than a profile with a clear winner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from epp.api import (
    IN_FLIGHT_REQUESTS,
    WAITING_REQUESTS,
    Candidates,
    Fleet,
    Floats,
    Picker,
    ProfileResult,
    Request,
    SchedulingResult,
    Scorer,
)
from epp.observability.explain import Decisions
from epp.observability.explanation import explanation, one_line
from epp.scheduling.observer import Unobserved
from epp.scheduling.profile import NoEndpointLeft, Profile
from epp_plugins.filters.decode_filter import DecodeFilter
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from epp_plugins.scorers.queue_scorer import QueueScorer
from tests.support.plugins import Clock, label_fleet, make_fleet, make_handle, make_plugin
from tests.support.recording import make_request


class Worst(Picker):
    """Takes the lowest total."""

    type = "worst"

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        return (int(scores.argmin()),)


class Steady(Scorer):
    """Gives the first endpoint 1, the others a half: no number of the fleet is behind it."""

    type = "steady"

    def score(self, request: Request, candidates: Candidates) -> Sequence[float]:
        return [1.0] + [0.5] * (len(candidates) - 1)


def explain(fleet: Fleet, *profiles: Profile) -> dict[str, Any]:
    """The explanation of one request that ran these profiles; the first is the primary."""
    decisions = Decisions(fleet, Clock(), keep=1)
    request, candidates, trace = make_request(), fleet.candidates(), decisions.trace()
    results: dict[str, ProfileResult | None] = {}
    for profile in profiles:
        try:
            results[profile.name] = profile.run(request, candidates, trace=trace)
        except NoEndpointLeft:
            results[profile.name] = None
    decisions.scheduled(request, "hash", candidates, trace, SchedulingResult(results, profiles[0].name), 1e-5)
    [decision] = decisions.last(1)
    explained = explanation(decision)
    assert json.loads(one_line(decision))["chosen"] == [e["name"] for e in explained["chosen"]]
    return explained


def make_profile(name: str = "p", **parts: Any) -> Profile:
    return Profile(name, **{"picker": make_plugin(MaxScorePicker), "observer": Unobserved(), **parts})


def why_not(profile: Mapping[str, Any]) -> dict[str, str]:
    return {e["name"]: e["why_not"] for e in profile["endpoints"] if not e["chosen"]}


def test_a_better_total_that_the_picker_passed_over_is_told() -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: (0, 5)})
    profile = make_profile(
        scorers=[(make_plugin(QueueScorer, fleet), 1.0)], picker=Worst(None, make_handle(name="worst"))
    )

    assert why_not(explain(fleet, profile)["profiles"][0]) == {"s0": "+1.00, but worst chose another"}


def test_a_tie_of_another_picker_is_not_explained_by_our_rule() -> None:
    fleet = make_fleet(2)
    profile = make_profile(picker=Worst(None, make_handle(name="worst")))

    assert why_not(explain(fleet, profile)["profiles"][0]) == {"s1": "tied, worst chose another"}


def test_a_tie_goes_to_the_fewest_in_flight() -> None:
    fleet = make_fleet(2, **{IN_FLIGHT_REQUESTS: (7, 3)})

    assert why_not(explain(fleet, make_profile())["profiles"][0]) == {"s0": "tied, in flight 7 vs 3"}


def test_a_score_without_a_number_behind_it_is_told_as_scores() -> None:
    fleet = make_fleet(2)
    profile = make_profile(scorers=[(Steady(None, make_handle(name="mine")), 2.0)])

    assert why_not(explain(fleet, profile)["profiles"][0]) == {"s1": "−1.00, mine 0.50 vs 1.00"}


def test_a_negative_weight_turns_the_reason_round() -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: (0, 5)})
    profile = make_profile(scorers=[(make_plugin(QueueScorer, fleet), -1.0)])

    assert why_not(explain(fleet, profile)["profiles"][0]) == {"s0": "−1.00, queue 0 vs 5"}


def test_each_profile_has_its_own_result() -> None:
    fleet = label_fleet({"llm-d.ai/role": "prefill"}, {"llm-d.ai/role": "prefill"})
    both = make_profile("all"), make_profile("decode", filters=[make_plugin(DecodeFilter)])

    explained = explain(fleet, *both)

    assert [(p["name"], p["primary"]) for p in explained["profiles"]] == [("all", True), ("decode", False)]
    assert explained["profiles"][1]["result"] == "0/2 endpoints are available: 2 removed by decode-filter"
    assert why_not(explained["profiles"][1]) == {"s0": "removed by decode-filter", "s1": "removed by decode-filter"}


def test_metrics_that_were_never_read_have_no_age() -> None:
    explained = explain(make_fleet(1), make_profile())

    assert explained["endpoints"][0]["metrics_age_s"] is None


def test_a_load_that_is_not_known_is_said() -> None:
    fleet = make_fleet(2, waiting_requests=(nan, 3), running_requests=(nan, 1), kv_cache_usage=(nan, 0.5))

    explained = explain(
        fleet,
        Profile(
            "p",
            scorers=[(make_plugin(QueueScorer, fleet), 1.0)],
            picker=make_plugin(MaxScorePicker),
            observer=Unobserved(),
        ),
    )

    facts = explained["endpoints"][0]
    assert (facts["waiting"], facts["running"], facts["kv_cache_usage"]) == (None, None, None)
    assert why_not(explained["profiles"][0])["s0"] == "−1.00, queue unknown vs 3"


def test_without_details_the_choice_is_still_told() -> None:
    fleet = make_fleet(1)
    decisions = Decisions(fleet, Clock(), keep=1, detail_bytes=0)
    trace, request = decisions.trace(), make_request()
    result = SchedulingResult({"p": make_profile().run(request, fleet.candidates(), trace=trace)}, "p")
    decisions.scheduled(request, "hash", fleet.candidates(), trace, result, 1e-5)

    explained = explanation(decisions.last(1)[0])
    assert (explained["detail_kept"], explained["profiles"], explained["endpoints"]) == (False, [], [])
    assert [e["name"] for e in explained["chosen"]] == ["s0"]
