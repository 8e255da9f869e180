"""Which endpoints a gateway's subset hint allows."""

from __future__ import annotations

import pytest

from epp.api import Endpoint, Fleet
from epp.data.subset import SubsetIndex


def index() -> SubsetIndex:
    fleet = Fleet()
    fleet.add(Endpoint("a0", "10.0.0.1", 8000))
    fleet.add(Endpoint("a1", "10.0.0.1", 8001))
    fleet.add(Endpoint("b", "10.0.0.2", 8000))
    fleet.add(Endpoint("v6", "2001:db8::1", 8000))
    return SubsetIndex(fleet.candidates())


@pytest.mark.parametrize(
    ("hint", "names"),
    [
        (None, ["a0", "a1", "b", "v6"]),
        ([], []),
        (["10.0.0.1:8001"], ["a1"]),
        (["10.0.0.1:9999"], ["a0", "a1"]),
        (["10.0.0.1"], ["a0", "a1"]),
        (["10.0.0.2:8000", "10.0.0.1:8000"], ["a0", "b"]),
        ([" 10.0.0.2:8000 "], ["b"]),
        (["[2001:db8::1]:8000"], ["v6"]),
        (["[2001:0DB8:0::1]:9"], ["v6"]),
        (["2001:db8::1"], ["v6"]),
        (["[2001:db8::1]"], ["v6"]),
        (["10.0.0.9:8000"], []),
        ([7, None, "10.0.0.2"], ["b"]),
        ([7], []),
        (["", ":", "[", "[]:", "x:y:z"], []),
    ],
)
def test_a_hint_allows(hint: list[object] | None, names: list[str]) -> None:
    assert [e.name for e in index().candidates_for(hint)] == names
