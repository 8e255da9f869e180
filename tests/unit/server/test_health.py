from __future__ import annotations

import pytest

from epp.server.health import EXT_PROC_SERVICE, HealthState, Serving

UP, DOWN, UNKNOWN = Serving.SERVING, Serving.NOT_SERVING, Serving.SERVICE_UNKNOWN

NOT_SYNCED = HealthState()
READY = HealthState(synced=True)
DRAINING = HealthState(synced=True, draining=True)
WAITING = HealthState(synced=True, hindrances=lambda: ["plugin predictor: has no model"])
FOLLOWER = HealthState(synced=True, leads=lambda: False)
LEADER = HealthState(synced=True, leads=lambda: True)
EMPTY_LEADER = HealthState(leads=lambda: True)


# Columns: liveness, readiness, "", the ext_proc service, the charts' service, any other name.
@pytest.mark.parametrize(
    ("state", "answers"),
    [
        (NOT_SYNCED, (UP, DOWN, DOWN, DOWN, DOWN, DOWN)),
        (READY, (UP, UP, UP, UP, UP, UP)),
        (DRAINING, (UP, DOWN, DOWN, DOWN, DOWN, DOWN)),
        (WAITING, (UP, DOWN, DOWN, DOWN, DOWN, DOWN)),
        (FOLLOWER, (UP, DOWN, DOWN, DOWN, DOWN, UNKNOWN)),
        (LEADER, (UP, UP, UP, UP, UP, UNKNOWN)),
        (EMPTY_LEADER, (UP, DOWN, DOWN, DOWN, DOWN, UNKNOWN)),
    ],
)
def test_each_service_is_answered_as_the_protocol_says(state: HealthState, answers: tuple[Serving, ...]) -> None:
    services = ("liveness", "readiness", "", EXT_PROC_SERVICE, "inference-extension", "something")

    assert tuple(state.check(service) for service in services) == answers


def test_the_list_has_the_probes_of_replicas_only_with_leader_election() -> None:
    assert READY.list() == {EXT_PROC_SERVICE: UP}
    assert FOLLOWER.list() == {EXT_PROC_SERVICE: DOWN, "liveness": UP, "readiness": DOWN}


def test_problems_name_each_component_that_is_not_ready() -> None:
    state = HealthState(leads=lambda: False, draining=True, hindrances=lambda: ["plugin a: x", "plugin b: y"])

    assert [problem.partition(":")[0] for problem in state.problems()] == [
        "endpoints",
        "leader election",
        "shutdown",
        "plugin a",
        "plugin b",
    ]


def test_the_numbers_are_those_of_the_wire() -> None:
    assert [s.value for s in (Serving.UNKNOWN, UP, DOWN, UNKNOWN)] == [0, 1, 2, 3]
