from __future__ import annotations

from epp_plugins.session_table import SessionTable
from tests.support.plugins import make_fleet


def test_bindings_whose_time_is_over_make_room_at_the_next_one() -> None:
    (endpoint,) = make_fleet(1).candidates()
    table = SessionTable(ttl_s=10, limit=100)
    for i in range(5):
        table.bind(f"s{i}", endpoint, now_s=float(i))
    table.touch("s0", now_s=4.0)

    table.bind("new", endpoint, now_s=13.5)

    assert len(table) == 3
    assert table.find("s0", now_s=13.5) is table.find("s4", now_s=13.5) is endpoint
    assert table.find("s3", now_s=13.5) is None


def test_there_are_never_more_than_the_limit_and_touching_makes_none() -> None:
    (endpoint,) = make_fleet(1).candidates()
    table = SessionTable(ttl_s=10, limit=2)
    for session in ("a", "b", "c"):
        table.bind(session, endpoint, now_s=0.0)
    table.touch("a", now_s=0.0)

    assert len(table) == 2
    assert table.find("a", now_s=0.0) is None


def test_an_endpoint_that_is_gone_serves_no_session() -> None:
    fleet = make_fleet(1)
    (endpoint,) = fleet.candidates()
    table = SessionTable(ttl_s=10, limit=2)
    table.bind("a", endpoint, now_s=0.0)
    fleet.remove(endpoint)

    assert table.find("a", now_s=0.0) is None
