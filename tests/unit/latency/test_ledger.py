"""Counts of what is on its way: told apart at the first token, and back at exactly zero."""

from __future__ import annotations

from math import inf

from epp.api import Endpoint, Fleet
from epp_plugins.latency.ledger import Charge, Ledger
from epp_plugins.latency.running_slos import RunningSlos
from tests.support.plugins import make_fleet


def endpoints(fleet: Fleet) -> tuple[Endpoint, ...]:
    return fleet.candidates().endpoints


def test_a_request_counts_before_and_after_its_first_token() -> None:
    ledger, (one, _) = Ledger(), endpoints(make_fleet(2))
    charge = Charge(one, one, 100.0, 50.0)

    ledger.dispatched(charge)
    before = ledger.counts[:, 0].tolist()
    ledger.first_token(charge)
    ledger.first_token(charge)
    after = ledger.counts[:, 0].tolist()
    ledger.ended(charge)
    ledger.ended(charge)

    assert before == [1, 100, 50, 100, 1, 0]
    assert after == [1, 100, 50, 0, 0, 1]
    assert not ledger.counts.any()


def test_an_endpoint_that_only_reads_the_prompt_is_free_at_the_first_token() -> None:
    ledger, (decoder, prefiller) = Ledger(), endpoints(make_fleet(2))
    charge = Charge(decoder, prefiller, 100.0, 50.0)

    ledger.dispatched(charge)
    before = ledger.counts[:, :2].T.tolist()
    ledger.first_token(charge)
    after = ledger.counts[:, :2].T.tolist()
    ledger.ended(charge)

    assert before == [[1, 0, 50, 0, 0, 0], [1, 100, 0, 100, 1, 0]]
    assert after == [[1, 0, 50, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert not ledger.counts.any()


def test_a_first_token_that_nobody_tells_of_is_taken_to_come_when_it_is_expected() -> None:
    ledger, (one,) = Ledger(), endpoints(make_fleet(1))
    early, late, over = (Charge(one, one, 10.0, 0.0) for _ in range(3))
    for charge in (early, late, over):
        ledger.dispatched(charge)
    ledger.begins_at(late, 30.0, 10.0)
    ledger.begins_at(over, 20.0, 10.0)
    ledger.begins_at(early, 5.0, 10.0)
    assert ledger.counts[4:, 0].tolist() == [2, 1]
    ledger.ended(over)

    ledger.catch_up(29.9)
    assert ledger.counts[4:, 0].tolist() == [1, 1]
    ledger.catch_up(30.0)
    assert ledger.counts[4:, 0].tolist() == [0, 2]


def test_another_endpoint_in_the_row_of_one_that_is_gone_is_charged_nothing() -> None:
    fleet = make_fleet(1)
    ledger, running, (one,) = Ledger(), RunningSlos(), endpoints(fleet)
    charge = Charge(one, one, 100.0, 50.0)
    ledger.dispatched(charge)
    running.add(one, 20.0)
    for _ in range(2):
        ledger.forget(one)
        running.forget(one)
    fleet.remove(one)
    fleet.add(Endpoint("other", "10.0.0.9", 8000))

    ledger.first_token(charge)
    ledger.ended(charge)
    running.remove(one, 20.0)

    assert not ledger.counts.any()
    assert running.tightest_ms[0] == inf
    assert running.count == 0


def test_the_tightest_slo_is_that_of_those_that_run() -> None:
    running, (one, two) = RunningSlos(), endpoints(make_fleet(2))

    seen = []
    for change, slo_ms in ((running.add, 30.0), (running.add, 20.0), (running.add, inf), (running.add, 20.0)):
        change(one, slo_ms)
        seen.append(running.tightest_ms[0])
    for slo_ms in (20.0, inf, 20.0, 30.0):
        running.remove(one, slo_ms)
        seen.append(running.tightest_ms[0])

    assert seen == [30, 20, 20, 20, 20, 20, 30, inf]
    assert running.tightest_ms[two.row] == inf
    assert running.count == 0
