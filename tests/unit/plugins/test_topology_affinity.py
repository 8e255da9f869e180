from __future__ import annotations

import pytest

from epp.api import PEER_ENDPOINT, Fleet, Request
from epp_plugins.filters.topology_affinity_filter import TopologyAffinityFilter
from epp_plugins.scorers.topology_affinity_scorer import TopologyAffinityScorer
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import make_request


def at(host: str = "", rack: str = "", zone: str = "", region: str = "") -> dict[str, str]:
    names = ("kubernetes.io/hostname", "topology.kubernetes.io/rack", "topology.kubernetes.io/zone")
    labels = dict(zip((*names, "topology.kubernetes.io/region"), (host, rack, zone, region), strict=True))
    return {name: value for name, value in labels.items() if value}


PLACES = (
    at("h1", "r1", "z1", "eu"),  # the peer's own host
    at("h2", "r1", "z1", "eu"),
    at("h3", "r2", "z1", "eu"),
    at("h4", "r3", "z2", "eu"),
    at("h5", "r4", "z3", "us"),
    {},
)


def with_peer(peer: dict[str, str]) -> tuple[Fleet, Request]:
    request = make_request()
    request.data[PEER_ENDPOINT] = label_fleet(peer).endpoints[0]
    return label_fleet(*PLACES), request


def test_the_nearer_the_better() -> None:
    fleet, request = with_peer(PLACES[0])

    scores = make_plugin(TopologyAffinityScorer, fleet).score(request, fleet.candidates())
    assert list(scores) == [1.0, 0.2, 0.05, 0.02, 0.0, 0.0]


@pytest.mark.parametrize(("least", "count"), [("host", 1), ("rack", 2), ("zone", 3), ("region", 4)])
def test_those_near_enough_stay(least: str, count: int) -> None:
    fleet, request = with_peer(PLACES[0])

    kept = make_plugin(TopologyAffinityFilter, fleet, minAffinity=least).keep(request, fleet.candidates())
    assert kept == [True] * count + [False] * (6 - count)


@pytest.mark.parametrize("peer", [None, {}, at("elsewhere")])
def test_without_a_peer_whose_place_means_something_all_are_equal(peer: dict[str, str] | None) -> None:
    fleet, request = with_peer(peer or {})
    if peer is None:
        del request.data[PEER_ENDPOINT]

    assert make_plugin(TopologyAffinityFilter, fleet).keep(request, fleet.candidates()) == [True] * 6
    assert not make_plugin(TopologyAffinityScorer, fleet).score(request, fleet.candidates()).any()


def test_no_candidates_give_no_answers() -> None:
    _, request = with_peer(PLACES[0])

    assert make_plugin(TopologyAffinityFilter).keep(request, Fleet().candidates()) == []
    assert list(make_plugin(TopologyAffinityScorer).score(request, Fleet().candidates())) == []
