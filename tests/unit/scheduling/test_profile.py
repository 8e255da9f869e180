from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import numpy as np
import pytest

from epp.api import Candidates, Code, Filter, Floats, Mask, Picker, Request, Scorer
from epp.scheduling.observer import Unobserved
from epp.scheduling.profile import NoEndpointLeft, Profile
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from tests.support.plugins import label_fleet, make_fleet, make_handle, make_plugin
from tests.support.scheduling import make_request


class Scores(Scorer):
    """Gives fixed scores, or raises them."""

    type = "scores"

    def __init__(self, scores: Sequence[float] | Exception) -> None:
        super().__init__(None, make_handle())
        self.scores = scores

    def score(self, request: Request, candidates: Candidates) -> Floats | Sequence[float]:
        if isinstance(self.scores, Exception):
            raise self.scores
        return self.scores


class Keeps(Filter):
    """Keeps the endpoints with these names, or raises."""

    type = "keeps"

    def __init__(self, name: str, *names: str, error: Exception | None = None) -> None:
        super().__init__(None, make_handle(name=name))
        self.names = names
        self.error = error
        self.seen: list[str] = []

    def keep(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        if self.error is not None:
            raise self.error
        self.seen = [e.name for e in candidates]
        return [e.name in self.names for e in candidates]


class Picks(Picker):
    """Picks fixed positions, or raises."""

    type = "picks"

    def __init__(self, *positions: int, error: Exception | None = None) -> None:
        super().__init__(None, make_handle())
        self.positions = positions
        self.error = error

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        if self.error is not None:
            raise self.error
        return self.positions


class Failures(Unobserved):
    """Remembers which plugins failed, and where."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def plugin_failed(self, point: str, plugin: object, error: Exception) -> None:
        self.seen.append((point, str(error)))


def totals(*scorers: tuple[Scorer, float], count: int = 2, observer: Unobserved | None = None) -> list[float]:
    profile = Profile("p", scorers=scorers, picker=make_plugin(MaxScorePicker), observer=observer or Unobserved())
    fleet = make_fleet(count)
    return profile.run(make_request(), fleet.candidates()).scores.tolist()


def test_total_is_the_weighted_sum() -> None:
    assert totals((Scores([1.0, 0.5]), 2.0), (Scores(np.array([0.0, 1.0])), 3.0)) == [2.0, 4.0]


def test_weights_are_not_normalised_and_may_be_negative() -> None:
    assert totals((Scores([1.0, 0.5]), -2.0), (Scores([1.0, 1.0]), 100.0)) == [98.0, 99.0]


def test_scores_are_clipped_before_they_are_weighted() -> None:
    assert totals((Scores([7.0, -7.0]), 2.0), (Scores([inf, -inf]), 1.0)) == [3.0, 0.0]


def test_a_scorer_does_not_see_its_vector_changed() -> None:
    mine = np.array([7.0, 0.5])
    totals((Scores(mine), 2.0))

    assert mine.tolist() == [7.0, 0.5]


@pytest.mark.parametrize(
    "bad",
    [ValueError("no data"), [nan, 1.0], [1.0], [1.0, 1.0, 1.0], [], [[1.0, 1.0]], ["a", "b"]],
    ids=["raises", "nan", "too short", "too long", "empty", "two dimensions", "no numbers"],
)
def test_a_scorer_that_fails_counts_zero_and_is_reported(bad: Sequence[float] | Exception) -> None:
    failures = Failures()

    assert totals((Scores(bad), 2.0), (Scores([0.0, 1.0]), 1.0), observer=failures) == [0.0, 1.0]
    assert [point for point, _ in failures.seen] == ["Scorer"]


def run(filters: Sequence[Filter], observer: Unobserved | None = None, picker: Picker | None = None) -> list[str]:
    profile = Profile(
        "p",
        filters=filters,
        picker=picker or make_plugin(MaxScorePicker, maxNumOfEndpoints=9),
        observer=observer or Unobserved(),
    )
    fleet = label_fleet({}, {}, {})
    return [e.name for e in profile.run(make_request(), fleet.candidates()).endpoints]


def test_each_filter_sees_what_the_one_before_left() -> None:
    first, second = Keeps("first", "s0", "s2"), Keeps("second", "s1", "s2")

    assert run([first, second]) == ["s2"]
    assert second.seen == ["s0", "s2"]


def test_when_nobody_is_left_the_client_gets_429_and_the_log_who_removed_whom() -> None:
    with pytest.raises(NoEndpointLeft) as caught:
        run([Keeps("first", "s0", "s1"), Keeps("second"), Keeps("third")])

    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.headers == {"x-llm-d-request-dropped-reason": "rejected-saturated"}
    assert caught.value.why_not == "profile p: 0/3 endpoints are available: 1 removed by first, 2 by second"


def test_filters_after_nobody_is_left_do_not_run() -> None:
    last = Keeps("last", "s0")
    with pytest.raises(NoEndpointLeft):
        run([Keeps("first"), last])

    assert last.seen == []


def test_no_candidates_at_all_is_the_same_refusal() -> None:
    profile = Profile("p", picker=make_plugin(MaxScorePicker), observer=Unobserved())
    with pytest.raises(NoEndpointLeft, match="no endpoint can serve"):
        profile.run(make_request(), make_fleet(0).candidates())


def test_a_filter_that_raises_removes_nobody_and_is_reported() -> None:
    failures = Failures()

    assert set(run([Keeps("broken", error=ValueError("oops"))], failures)) == {"s0", "s1", "s2"}
    assert failures.seen == [("Filter", "oops")]


@pytest.mark.parametrize("picker", [Picks(), Picks(error=ValueError("oops"))], ids=["nothing", "raises"])
def test_when_the_picker_fails_the_best_is_taken_and_it_is_reported(picker: Picker) -> None:
    failures = Failures()
    scorer = Scores([0.0, 1.0])
    profile = Profile("p", scorers=[(scorer, 1.0)], picker=picker, observer=failures)

    assert [e.name for e in profile.run(make_request(), make_fleet(2).candidates()).endpoints] == ["s1"]
    assert [point for point, _ in failures.seen] == ["Picker"]


def test_endpoints_come_in_the_pickers_order() -> None:
    assert run([], picker=Picks(2, 0)) == ["s2", "s0"]


def test_nan_for_a_candidate_whose_load_is_unknown_is_0_for_that_one() -> None:
    failures = Failures()
    scorers = [(Scores([0.5, nan, 1.0]), 2.0)]
    profile = Profile("p", scorers=scorers, picker=make_plugin(MaxScorePicker), observer=failures)
    fleet = make_fleet(3, waiting_requests=(0, nan, 0))

    assert profile.run(make_request(), fleet.candidates()).scores.tolist() == [1.0, 0.0, 2.0]
    assert failures.seen == []


def test_raw_scores_are_those_of_each_scorer_before_its_weight() -> None:
    fleet = make_fleet(2)
    scorers = [(named("a", [0.25, 1.0]), 3.0), (named("unweighted", [1, 0]), 0.0), (named("fails", ValueError()), 1.0)]
    profile = Profile("p", scorers=scorers, picker=make_plugin(MaxScorePicker), observer=Unobserved())

    result = profile.run(make_request(), fleet.candidates())

    assert {name: list(scores) for name, scores in result.raw_scores.items()} == {
        "a": [0.25, 1.0],
        "unweighted": [1, 0],
    }
    assert list(result.scores) == [0.75, 3.0]


def test_raw_scores_are_for_reading_only() -> None:
    fleet = make_fleet(2)
    scorer = named("a", np.array([0.5, 1.0]))
    profile = Profile("p", scorers=[(scorer, 1.0)], picker=make_plugin(MaxScorePicker), observer=Unobserved())
    raw = profile.run(make_request(), fleet.candidates()).raw_scores

    with pytest.raises(ValueError, match="read-only"):
        raw["a"][0] = 9.0
    with pytest.raises(TypeError):
        raw["b"] = raw["a"]  # type: ignore[index]


def named(name: str, scores: Sequence[float] | Exception) -> Scores:
    scorer = Scores(scores)
    scorer.name = name
    return scorer
