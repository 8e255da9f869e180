"""Priorities by objective name."""

from __future__ import annotations

from epp.api import NO_SLO, Slo
from epp.data.objectives import Objectives


def test_an_unknown_objective_has_priority_0() -> None:
    assert Objectives().priority_of("x") == 0


def test_an_objective_without_priority_has_priority_0() -> None:
    objectives = Objectives()

    objectives.set("x", None)

    assert objectives.priority_of("x") == 0


def test_the_last_priority_given_counts() -> None:
    objectives = Objectives()
    objectives.set("x", 1)

    objectives.set("x", -2)

    assert objectives.priority_of("x") == -2


def test_replacing_all_forgets_the_others() -> None:
    objectives = Objectives()
    objectives.set("x", 1)

    objectives.replace_all({"y": 2})

    assert (objectives.priority_of("x"), objectives.priority_of("y"), len(objectives)) == (0, 2, 1)


def test_a_removed_objective_is_unknown() -> None:
    objectives = Objectives()
    objectives.set("x", 1)

    objectives.remove("x")

    assert objectives.priority_of("x") == 0


def test_slos_go_with_their_objectives() -> None:
    objectives = Objectives()
    assert objectives.slo_of("x") == NO_SLO

    objectives.set("x", 1, Slo(ttft_ms=200))
    assert objectives.slo_of("x") == Slo(ttft_ms=200)

    objectives.set("x", 2)
    assert objectives.slo_of("x") == NO_SLO

    objectives.replace_all({"y": 0, "z": 0}, {"y": Slo(tpot_ms=30)})
    objectives.remove("z")
    assert (objectives.slo_of("x"), objectives.slo_of("y")) == (NO_SLO, Slo(tpot_ms=30))

    objectives.remove("y")
    assert objectives.slo_of("y") == NO_SLO
