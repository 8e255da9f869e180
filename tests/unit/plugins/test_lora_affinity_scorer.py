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
