"""The ring: what it keeps of a decision, what it forgets, and what it never holds."""

from __future__ import annotations

import numpy as np
import pytest

from epp.api import (
    IN_FLIGHT_REQUESTS,
    METRICS_UPDATED_S,
    WAITING_REQUESTS,
    Code,
    Fleet,
    PrefixMatch,
    RequestError,
    Usage,
)
from epp.observability.explain import Decision, Decisions
from epp.scheduling.profile import NoEndpointLeft
from tests.support.deciding import decide
from tests.support.plugins import Clock, make_fleet
from tests.support.recording import make_request, make_response


def make_ring(fleet: Fleet, *, keep: int = 10, detail_bytes: int = 1 << 20) -> Decisions:
    return Decisions(fleet, Clock(), keep=keep, detail_bytes=detail_bytes)


def only(decisions: Decisions) -> Decision:
    [decision] = decisions.last(100)
    return decision


def test_scores_and_loads_are_those_of_the_moment() -> None:
    fleet = make_fleet(2, **{WAITING_REQUESTS: (0, 4), IN_FLIGHT_REQUESTS: (1, 2)})
    decisions = make_ring(fleet)
    decide(decisions, fleet)
    for name in (WAITING_REQUESTS, IN_FLIGHT_REQUESTS):
        fleet.columns[name][:] = 99

    detail = only(decisions).detail
    assert detail is not None
    rows = fleet.candidates().rows
    assert detail.reading.waiting[rows].tolist() == [0, 4]
    assert detail.in_flight[rows].tolist() == [1, 2]
    assert detail.trace[0].scores[0].tolist() == [1.0, 0.0]  # type: ignore[union-attr]


def test_an_endpoint_that_has_gone_is_still_named() -> None:
    fleet = make_fleet(2)
    decisions = make_ring(fleet)
    decide(decisions, fleet)
    for endpoint in fleet.candidates().endpoints:
        fleet.remove(endpoint)

    detail = only(decisions).detail
    assert detail is not None
    assert [e.name for e in detail.pool.endpoints] == ["s0", "s1"]


def test_one_reading_is_shared_until_a_page_is_read() -> None:
    fleet = make_fleet(2)
    decisions = make_ring(fleet)
    decide(decisions, fleet)
    decide(decisions, fleet)
    fleet.columns[METRICS_UPDATED_S][fleet.candidates().rows[0]] = 1001.0
    fleet.columns[WAITING_REQUESTS][fleet.candidates().rows[0]] = 7
    decide(decisions, fleet)

    first, second, third = (d.detail for d in decisions.last(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.reading is second.reading
    assert (second.reading.waiting.max(), third.reading.waiting.max()) == (0, 7)


def test_the_oldest_are_forgotten() -> None:
    fleet = make_fleet(2)
    decisions = make_ring(fleet, keep=3)
    for _ in range(5):
        decide(decisions, fleet)

    assert [d.number for d in decisions.last(10)] == [3, 4, 5]


def test_of_a_large_fleet_fewer_are_kept_in_detail_and_all_by_name() -> None:
    fleet = make_fleet(500)
    decisions = make_ring(fleet, keep=10, detail_bytes=100_000)
    for _ in range(10):
        decide(decisions, fleet)

    kept = decisions.last(10)
    detailed = [d.number for d in kept if d.detail is not None]
    assert 2 <= len(detailed) < 10
    assert detailed[-1] == 10
    assert all(d.endpoints for d in kept)


def test_details_that_left_with_their_decision_make_room() -> None:
    fleet = make_fleet(2)
    decisions = make_ring(fleet, keep=2, detail_bytes=10_000)
    for _ in range(200):
        decide(decisions, fleet)

    assert [d.detail is not None for d in decisions.last(2)] == [True, True]


def test_the_outcome_is_added_when_it_is_known() -> None:
    fleet = make_fleet(1)
    decisions = make_ring(fleet)
    request = decide(decisions, fleet)
    before = only(decisions).ended

    decisions.ended(request, make_response(usage=Usage(prompt_tokens=9, completion_tokens=3, cached_tokens=8)))

    decision = only(decisions)
    assert (before, decision.ended, decision.status) == (False, True, 200)
    assert (decision.ttft_s, decision.duration_s) == (0.5, 2.0)
    assert decision.usage is not None
    assert decision.usage.cached_tokens == 8


def test_a_refusal_before_scheduling_is_kept_with_its_reason() -> None:
    decisions = make_ring(make_fleet(1))
    decisions.refused(make_request(), "hash", RequestError(Code.BAD_REQUEST, "no model"))

    decision = only(decisions)
    assert (decision.refusal, decision.message, decision.status) == ("BadRequest", "no model", 400)
    assert decision.detail is None


def test_a_refusal_by_filters_belongs_to_its_decision() -> None:
    fleet = make_fleet(3)
    decisions = make_ring(fleet)
    request, trace = make_request(), decisions.trace()
    decisions.scheduled(request, "hash", fleet.candidates(), trace, None, 0.0)
    decisions.refused(request, "hash", NoEndpointLeft("p", 3, [("decode-filter", 3)]))

    decision = only(decisions)
    assert (decision.total, decision.removed) == (3, (("decode-filter", 3),))


def test_a_request_that_was_not_even_read_is_kept_and_over() -> None:
    decisions = make_ring(make_fleet(1))
    decisions.refused(None, "hash", RequestError(Code.PAYLOAD_TOO_LARGE, "too large"))

    decision = only(decisions)
    assert (decision.id, decision.ended, decision.status) == ("", True, 413)


def test_prefixes_that_producers_published_are_kept() -> None:
    fleet = make_fleet(2)
    decisions = make_ring(fleet)
    request = make_request()
    match = PrefixMatch(np.zeros(fleet.capacity), 3, 16)
    request.data.update({"TokenizedPrompt/t": b"the prompt", "PrefixCacheMatchInfo/p": match})
    decide(decisions, fleet, request)

    detail = only(decisions).detail
    assert detail is not None
    assert detail.prefixes == (("PrefixCacheMatchInfo/p", match),)


def test_nothing_is_kept_when_none_is_wanted() -> None:
    fleet = make_fleet(1)
    decisions = make_ring(fleet, keep=0)
    request = decide(decisions, fleet)
    decisions.refused(request, "hash", RequestError(Code.BAD_REQUEST, "no"))
    decisions.ended(request, make_response())

    assert (len(decisions), decisions.trace(), request.state) == (0, None, {})


@pytest.mark.parametrize(
    ("after", "count", "found"), [(0, 9, [1, 2, 3, 4]), (2, 9, [3, 4]), (0, 2, [1, 2]), (9, 9, [])]
)
def test_later_decisions_come_in_order(after: int, count: int, found: list[int]) -> None:
    fleet = make_fleet(1)
    decisions = make_ring(fleet)
    for _ in range(4):
        decide(decisions, fleet)

    assert [d.number for d in decisions.after(after, count)] == found


def test_of_requests_with_one_id_the_latest_is_found() -> None:
    fleet = make_fleet(1)
    decisions = make_ring(fleet)
    for _ in range(2):
        decide(decisions, fleet)

    found = decisions.find("r-1")
    assert found is not None
    assert found.number == 2
    assert decisions.find("r-2") is None
