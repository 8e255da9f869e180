from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from epp.discovery.kubernetes.election import Done, Election, Lease, Read, Rest, Write

WALL = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def candidate(name: str = "me", wall: datetime = WALL) -> Election:
    return Election(name, rng=random.Random(0), wall=lambda: wall)


def held(by: str, version: str = "7") -> Lease:
    return Lease(by, 15, acquired=WALL, renewed=WALL, transitions=3, version=version)


def leader(sent_s: float = 0.0, answered_s: float = 0.0) -> Election:
    election = candidate()
    election.saw(None, 0.0)
    ask = election.next(0.0)
    assert isinstance(ask, Write)
    election.wrote(msgspec.structs.replace(ask.lease, version="1"), sent_s=sent_s, now_s=answered_s)
    return election


def rest_of(election: Election, now_s: float) -> float:
    ask = election.next(now_s)
    assert isinstance(ask, Rest)
    return ask.for_s


def test_a_lease_that_is_not_there_is_created() -> None:
    election = candidate()
    assert election.next(0.0) == Read()

    election.saw(None, 0.1)

    assert election.next(0.1) == Write(Lease("me", 15, acquired=WALL, renewed=WALL))
    assert not election.leads(0.1)


def test_a_released_lease_is_taken_at_once() -> None:
    election = candidate()

    election.saw(held(""), 0.1)

    ask = election.next(0.1)
    assert isinstance(ask, Write)
    assert (ask.lease.holder, ask.lease.transitions, ask.lease.version) == ("me", 4, "7")


def test_a_lease_of_long_ago_is_taken_only_after_it_was_watched_for_its_duration() -> None:
    """The time in it is another machine's, and may be hours off."""
    election = candidate(wall=WALL + timedelta(days=1))
    election.saw(held("other"), 100.0)

    now_s = 100.0
    while isinstance(ask := election.next(now_s), Rest | Read):
        now_s += ask.for_s if isinstance(ask, Rest) else 0.0
        if isinstance(ask, Read):
            election.saw(held("other"), now_s)

    assert 115.0 <= now_s <= 115.5


def test_each_change_of_the_lease_begins_the_waiting_anew() -> None:
    election = candidate()
    election.saw(held("other"), 100.0)

    election.saw(held("other", version="8"), 114.0)

    assert not isinstance(election.next(116.0), Write)
    assert isinstance(election.next(129.5), Write)


def test_leading_is_counted_from_when_the_write_was_sent() -> None:
    """Others may have seen it just then, whenever its answer came."""
    election = leader(sent_s=0.0, answered_s=4.0)

    assert election.leads(9.9)
    assert not election.leads(10.0)


def test_a_write_without_an_answer_makes_nobody_a_leader() -> None:
    election = candidate()
    election.saw(None, 0.0)
    election.next(0.0)

    election.failed(5.0)
    election.saw(held("me"), 8.0)

    assert not election.leads(8.0)
    assert isinstance(election.next(8.0), Write)


def test_renewals_keep_who_acquired_when_and_are_spread() -> None:
    waits = set()
    election = leader()
    for i in range(20):
        now_s = i * 3.0
        waits.add(rest_of(election, now_s))
        ask = election.next(now_s + 3.0)
        assert isinstance(ask, Write)
        assert (ask.lease.acquired, ask.lease.transitions) == (WALL, 0)
        election.wrote(msgspec.structs.replace(ask.lease, version=str(i)), sent_s=now_s + 3.0, now_s=now_s + 3.0)

    assert len(waits) == 20
    assert all(1.6 <= wait <= 2.4 for wait in waits)


def test_a_renewal_differs_from_the_one_before_even_when_the_wall_clock_stands() -> None:
    """The API server stores no write that changes nothing, and followers would see no renewal."""
    election = leader()

    ask = election.next(3.0)

    assert isinstance(ask, Write)
    assert ask.lease.renewed == WALL + timedelta(microseconds=1)


def test_a_leader_that_finds_another_holder_leads_no_more() -> None:
    election = leader()
    election.conflicted()
    assert election.next(3.0) == Read()

    election.saw(held("other"), 3.0)

    assert not election.leads(3.0)


def test_a_leader_that_resigns_frees_the_lease() -> None:
    election = leader()

    election.resign()

    assert not election.leads(0.1)
    ask = election.next(0.1)
    assert isinstance(ask, Write)
    assert (ask.lease.holder, ask.lease.duration_s, ask.lease.version) == ("", 1, "1")
    election.wrote(msgspec.structs.replace(ask.lease, version="2"), sent_s=0.1, now_s=0.2)
    assert election.next(0.2) == Done()


def test_resigning_after_a_write_without_an_answer_looks_what_became_of_it() -> None:
    election = candidate()
    election.saw(None, 0.0)
    election.next(0.0)
    election.failed(5.0)

    election.resign()

    assert election.next(5.0) == Read()
    election.saw(held("me"), 5.1)
    assert isinstance(election.next(5.1), Write)


def test_a_follower_that_resigns_leaves_the_lease_alone() -> None:
    election = candidate()
    election.saw(held("other"), 0.0)

    election.resign()

    assert election.next(0.1) == Done()


def test_the_object_is_that_of_client_go() -> None:
    lease = Lease("me", 15, acquired=WALL, renewed=WALL, transitions=2, version="9")

    object = lease.to_object(namespace="ns", name="epp-ns-pool.llm-d.ai")

    assert object["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-02T03:04:05.678901Z",
        "renewTime": "2026-01-02T03:04:05.678901Z",
        "leaseTransitions": 2,
    }
    assert Lease.from_object(object) == lease


def test_an_object_with_nothing_in_it_is_a_lease_that_nobody_holds() -> None:
    metadata: dict[str, Any] = {"resourceVersion": "1"}

    for spec in ({}, None, {"renewTime": "yesterday"}):
        lease = Lease.from_object({"metadata": metadata, "spec": spec})
        election = candidate()
        election.saw(lease, 0.0)
        assert isinstance(election.next(0.0), Write)
