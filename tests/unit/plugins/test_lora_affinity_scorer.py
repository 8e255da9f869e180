from __future__ import annotations

from epp.api import LORA_CAPACITY
from epp_plugins.scorers.lora_affinity_scorer import LoraAffinityScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


def test_active_then_room_then_waiting_then_nothing() -> None:
    fleet = make_fleet(5, **{LORA_CAPACITY: [2, 2, 2, 2, 0]})
    active, room, waiting, full, _unknown = fleet.candidates().endpoints
    active.lora_active = frozenset({"mine", "other"})
    room.lora_active = frozenset({"other"})
    waiting.lora_active, waiting.lora_waiting = frozenset({"other"}), frozenset({"mine"})
    full.lora_active, full.lora_waiting = frozenset({"other"}), frozenset({"third"})

    scores = make_plugin(LoraAffinityScorer, fleet).score(make_request(model="mine"), fleet.candidates())

    assert scores == [1.0, 0.8, 0.6, 0.0, 0.0]


def test_room_is_tested_before_waiting() -> None:
    fleet = make_fleet(1, **{LORA_CAPACITY: [4]})
    fleet.candidates().endpoints[0].lora_waiting = frozenset({"mine"})

    assert make_plugin(LoraAffinityScorer, fleet).score(make_request(model="mine"), fleet.candidates()) == [0.8]


def test_no_candidates() -> None:
    fleet = make_fleet(0)

    assert make_plugin(LoraAffinityScorer, fleet).score(make_request(), fleet.candidates()) == []


def test_an_endpoint_that_is_loading_the_adapter_may_come_before_those_with_room() -> None:
    fleet = make_fleet(4, **{LORA_CAPACITY: [4, 1, 4, 4]})
    loading, loading_full, room, active = fleet.candidates().endpoints
    loading.lora_waiting = frozenset({"mine"})
    loading_full.lora_waiting = frozenset({"mine"})
    room.lora_active = frozenset({"other"})
    active.lora_active = frozenset({"mine"})

    scorer = make_plugin(LoraAffinityScorer, fleet, preferLoading=True)

    assert scorer.score(make_request(model="mine"), fleet.candidates()) == [0.9, 0.9, 0.8, 1.0]


def test_to_a_base_model_all_endpoints_are_equal() -> None:
    fleet = make_fleet(2, **{LORA_CAPACITY: [4, 0]})
    scorer = make_plugin(LoraAffinityScorer, fleet, baseModels=["base"])

    assert scorer.score(make_request(model="base"), fleet.candidates()) == [1.0, 1.0]
    assert scorer.score(make_request(model="mine"), fleet.candidates()) == [0.8, 0.0]
