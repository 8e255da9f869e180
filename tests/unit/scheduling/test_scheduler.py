from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from epp.api import Code, ProfileHandler, ProfileResult, Request, RequestError, SchedulingResult
from epp.scheduling.observer import Unobserved
from epp.scheduling.profile import NoEndpointLeft, Profile
from epp.scheduling.scheduler import Scheduler
from epp_plugins.filters.decode_filter import DecodeFilter
from epp_plugins.filters.prefill_filter import PrefillFilter
from epp_plugins.handlers.single_profile_handler import SingleProfileHandler
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from tests.support.plugins import label_fleet, make_fleet, make_handle, make_plugin
from tests.support.scheduling import make_request


class InOrder(ProfileHandler):
    """Asks for one list of profiles after the other; the destination is `primary`'s."""

    type = "in-order"

    def __init__(self, *rounds: list[str], primary: str) -> None:
        super().__init__(None, make_handle())
        self.rounds = iter(rounds)
        self.primary = primary
        self.seen: list[set[str]] = []

    def pick_profiles(self, request: Request, results: Mapping[str, ProfileResult | None]) -> Iterable[str]:
        self.seen.append(set(results))
        return next(self.rounds, [])

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        return SchedulingResult(results, self.primary)


def two_profiles(handler: ProfileHandler) -> Scheduler:
    profiles = {
        "prefill": Profile(
            "prefill", filters=[make_plugin(PrefillFilter)], picker=make_plugin(MaxScorePicker), observer=Unobserved()
        ),
        "decode": Profile(
            "decode", filters=[make_plugin(DecodeFilter)], picker=make_plugin(MaxScorePicker), observer=Unobserved()
        ),
    }
    return Scheduler(profiles, handler, observer=Unobserved())


PREFILLER, DECODER = {"llm-d.ai/role": "prefill"}, {"llm-d.ai/role": "decode"}


def test_the_handler_is_asked_until_it_names_no_more() -> None:
    handler = InOrder(["decode"], ["prefill"], primary="decode")
    result = two_profiles(handler).schedule(make_request(), label_fleet(PREFILLER, DECODER).candidates())

    assert result.target.name == "s1"
    assert {name: r and r.endpoints[0].name for name, r in result.profiles.items()} == {"decode": "s1", "prefill": "s0"}
    assert handler.seen == [set(), {"decode"}, {"decode", "prefill"}]


def test_a_profile_asked_for_again_does_not_run_again_and_ends_the_loop() -> None:
    handler = InOrder(["decode"], ["decode"], ["prefill"], primary="decode")
    result = two_profiles(handler).schedule(make_request(), label_fleet(PREFILLER, DECODER).candidates())

    assert set(result.profiles) == {"decode"}


def test_a_profile_that_finds_nothing_is_none_and_the_others_count() -> None:
    handler = InOrder(["decode", "prefill"], primary="decode")
    result = two_profiles(handler).schedule(make_request(), label_fleet(DECODER).candidates())

    assert result.profiles["prefill"] is None
    assert result.target.name == "s0"


def test_when_the_primary_profile_finds_nothing_its_refusal_is_the_answer() -> None:
    handler = InOrder(["decode", "prefill"], primary="decode")
    with pytest.raises(NoEndpointLeft) as caught:
        two_profiles(handler).schedule(make_request(), label_fleet(PREFILLER).candidates())

    assert caught.value.why_not.startswith("profile decode: 0/1")


@pytest.mark.parametrize(
    "handler", [InOrder(primary="decode"), InOrder(["prefill"], primary="decode")], ids=["none", "another"]
)
def test_when_the_primary_profile_did_not_run_the_request_is_refused(handler: InOrder) -> None:
    with pytest.raises(RequestError, match="failed to find target endpoint") as caught:
        two_profiles(handler).schedule(make_request(), label_fleet(PREFILLER).candidates())

    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_one_profile_with_the_single_profile_handler() -> None:
    handler = make_plugin(SingleProfileHandler)
    handler.check_profiles(["default"])
    profile = Profile("default", picker=make_plugin(MaxScorePicker), observer=Unobserved())
    result = Scheduler({"default": profile}, handler, observer=Unobserved()).schedule(
        make_request(), make_fleet(1).candidates()
    )

    assert (result.primary, result.target.name) == ("default", "s0")
