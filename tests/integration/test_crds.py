"""A real API server takes and refuses by our definitions exactly what it does by the official ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.crd_cases import KINDS, Kind, cases
from tests.support.crd_judge import Judge

OURS = sorted((Path(__file__).parents[2] / "deploy" / "crds").glob("infer*.yaml"))
CASES = list(cases())


@pytest.fixture(scope="module")
def judges(control_plane: ControlPlane) -> tuple[Judge, Judge]:
    """By ours, by the official ones."""
    namespace = control_plane.create_namespace("crds")

    def judge(origin: str, files: list[Path]) -> Judge:
        definitions = [yaml.safe_load(file.read_text()) for file in files]
        return Judge(control_plane, origin, definitions, namespace=namespace)

    return judge("ours", OURS), judge("official", list(OFFICIAL_CRDS))


def test_there_are_enough_cases_of_either_verdict() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
    for verdict in (True, False):
        assert sum(case.good is verdict for case in CASES) >= 60


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.definition)
def test_the_verdicts_are_the_same(judges: tuple[Judge, Judge], kind: Kind) -> None:
    ours, official = judges
    mine = [case for case in CASES if case.kind == kind]

    verdicts = [(case, ours.verdict(case), official.verdict(case)) for case in mine]

    assert [str(case) for case, _, theirs in verdicts if theirs.good is not case.good] == []
    # What is kept is compared, too: the same defaults, and the same fields dropped.
    assert [row for row in verdicts if (row[1].good, row[1].content) != (row[2].good, row[2].content)] == []


def test_the_whole_set_is_applied_with_one_command(own_control_plane: ControlPlane) -> None:
    applied = own_control_plane.kubectl("apply", "--server-side", "-k", str(OURS[0].parent))

    assert applied.count("serverside-applied") == len(OURS)
    names = [yaml.safe_load(file.read_text())["metadata"]["name"] for file in OURS]
    own_control_plane.until(lambda: all(_is_established(own_control_plane, name) for name in names), "not established")


def _is_established(plane: ControlPlane, name: str) -> bool:
    found = plane.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", [])}
    # A group of *.k8s.io needs the annotation that says who approved of it.
    return (
        conditions.get("Established") == "True" and conditions.get("KubernetesAPIApprovalPolicyConformant") != "False"
    )
