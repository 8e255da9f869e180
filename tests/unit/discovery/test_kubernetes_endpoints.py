"""Which endpoints a Pod makes, what an InferencePool asks for, and what objectives of two groups mean together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from epp.api import Slo
from epp.data.endpoint_spec import EndpointSpec
from epp.discovery.kubernetes.endpoints import Roster, endpoints_of
from epp.discovery.kubernetes.inference_objects import InferenceObjects
from epp.discovery.kubernetes.objects import Custom, InferencePool, Pod
from epp.discovery.kubernetes.pools import PoolError, PoolWants, wants_of
from epp.discovery.kubernetes.resources import EXPERIMENTAL_GROUP, LLM_D_GROUP, Resource
from epp.discovery.object_files import OBJECTIVE, REWRITE
from epp.discovery.object_files import Pool as PoolName
from tests.support.kube_objects import make_objective, make_pod, make_pool, make_rewrite


def pod(*args: Any, **options: Any) -> Pod:
    return msgspec.convert(make_pod(*args, **options), Pod)


def ports(specs: tuple[EndpointSpec, ...]) -> list[int]:
    return [spec.port for spec in specs]


def test_a_pod_makes_an_endpoint_for_each_port() -> None:
    specs = endpoints_of(pod("a", "10.0.0.7", labels={"app": "x"}, host_ip="192.168.0.1"), (8000, 8001))

    common: dict[str, Any] = {"labels": {"app": "x"}, "pod_name": "a", "node_address": "192.168.0.1"}
    assert specs == (
        EndpointSpec("a-rank-0", "10.0.0.7", 8000, **common),
        EndpointSpec("a-rank-1", "10.0.0.7", 8001, **common),
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"ready": False},
        {"deleted": True},
        {"phase": "Failed"},
        {"phase": "Succeeded"},
        {"ip": ""},
        {"ip": "no address"},
    ],
)
def test_a_pod_that_cannot_serve_makes_none(changed: dict[str, Any]) -> None:
    assert endpoints_of(pod("a", **changed), (8000,)) == ()


def test_a_pod_without_a_status_makes_none() -> None:
    assert endpoints_of(msgspec.convert({"metadata": {"name": "a"}}, Pod), (8000,)) == ()


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"llm-d.ai/active-ports": "8001"}, [8001]),
        ({"inference.networking.k8s.io/active-ports": " 8000 , 8001"}, [8000, 8001]),
        ({"llm-d.ai/active-ports": "8000", "inference.networking.k8s.io/active-ports": "8001"}, [8000]),
        ({"llm-d.ai/active-ports": "8000,x,99999999,-1,9"}, [8000]),
        ({"llm-d.ai/active-ports": ""}, []),
        ({"llm-d.ai/active-ports": "٨٠٠٠"}, []),
        ({"other": "8000"}, [8000, 8001]),
    ],
)
def test_active_ports_say_which_ranks_serve(annotations: dict[str, str], expected: list[int]) -> None:
    assert ports(endpoints_of(pod("a", annotations=annotations), (8000, 8001))) == expected


def test_ranks_keep_their_names_when_others_stop() -> None:
    (spec,) = endpoints_of(pod("a", annotations={"llm-d.ai/active-ports": "8001"}), (8000, 8001))

    assert spec.name == "a-rank-1"


def test_a_pod_that_has_not_changed_changes_nothing() -> None:
    roster = Roster((8000,))
    roster.apply({("default", "a"): pod("a", version="1")})

    assert not roster.apply({("default", "a"): pod("a", version="2")})


def test_another_pod_of_the_same_name_and_address_is_another_endpoint() -> None:
    roster = Roster((8000,))
    roster.apply({("default", "a"): pod("a", uid="1")})

    delta = roster.apply({("default", "a"): pod("a", uid="2")})

    assert delta.gone == [("default", "a-rank-0")]
    assert [spec.name for spec in delta.wanted] == ["a-rank-0"]


def test_a_rank_that_stops_leaves_the_others_alone() -> None:
    roster = Roster((8000, 8001))
    roster.apply({("default", "a"): pod("a")})

    delta = roster.apply({("default", "a"): pod("a", annotations={"llm-d.ai/active-ports": "8001"})})

    assert delta.gone == [("default", "a-rank-0")]
    assert delta.wanted == []


def test_other_ports_change_the_endpoints_of_pods_that_are_known() -> None:
    roster = Roster((8000,))
    known = {("default", "a"): pod("a")}
    roster.apply(known)

    delta = roster.use_ports((9000, 9001), known)

    assert delta.gone == []
    assert [(spec.name, spec.port) for spec in delta.wanted] == [("a-rank-0", 9000), ("a-rank-1", 9001)]


# --- the pool ------------------------------------------------------------------------------------------------------------


def wants(obj: dict[str, Any]) -> PoolWants | None:
    return wants_of(msgspec.convert(obj, InferencePool))


def test_a_pool_selects_pods_by_all_its_labels() -> None:
    assert wants(make_pool("p", 8000, 8001, labels={"b": "2", "a": "1"})) == PoolWants("a=1,b=2", (8000, 8001))


def test_a_pool_of_the_older_version_has_one_port() -> None:
    old = {"metadata": {"name": "p"}, "spec": {"selector": {"app": "x"}, "targetPortNumber": 8000}}

    assert wants(old) == PoolWants("app=x", (8000,))


def test_a_pool_that_is_being_deleted_wants_nothing() -> None:
    obj = make_pool()
    obj["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"

    assert wants(obj) is None


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"selector": {"matchLabels": {}}, "targetPorts": [{"number": 1}]}, "selects nothing"),
        ({"selector": {"matchLabels": "x"}, "targetPorts": [{"number": 1}]}, "selects nothing"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "expected 1 to 8 ports, got 0"),
        ({"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 0}]}, "0 is not in 1..65535"),
        ({"selector": {"a": "b"}, "targetPortNumber": 70000}, "70000 is not in 1..65535"),
    ],
)
def test_a_pool_that_cannot_be_used_is_said(spec: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PoolError, match=complaint):
        wants({"metadata": {"name": "p"}, "spec": spec})


# --- objectives and rewrites ---------------------------------------------------------------------------------------------


def custom(obj: dict[str, Any]) -> Custom:
    return msgspec.json.decode(msgspec.json.encode(obj), type=Custom)


def of(group: str, plural: str = "inferenceobjectives") -> Resource:
    return Resource(group, "v1alpha2", plural, "default")


def test_of_two_groups_the_objective_of_llm_d_counts() -> None:
    made = InferenceObjects(PoolName("pool"))
    key = ("default", "batch")
    made.apply(OBJECTIVE, of(LLM_D_GROUP), {key: custom(make_objective("batch", -1))})
    made.apply(OBJECTIVE, of(EXPERIMENTAL_GROUP), {key: custom(make_objective("batch", 7, group=EXPERIMENTAL_GROUP))})
    assert made.priorities == {"batch": -1}

    made.apply(OBJECTIVE, of(LLM_D_GROUP), {key: None})

    assert made.priorities == {"batch": 7}


def test_annotations_are_the_slo_of_an_objective() -> None:
    made = InferenceObjects(PoolName("pool"))
    objective = make_objective("chat", 1)
    objective["metadata"]["annotations"] = {"llm-d.ai/slo-ttft-ms": "500"}

    made.apply(OBJECTIVE, of(LLM_D_GROUP), {("default", "chat"): custom(objective)})

    assert made.slos == {"chat": Slo(ttft_ms=500)}


def test_a_misspelt_annotation_is_told_and_the_objective_counts(caplog: pytest.LogCaptureFixture) -> None:
    made = InferenceObjects(PoolName("pool"))
    objective = make_objective("chat", 1)
    objective["metadata"]["annotations"] = {"llm-d.ai/slo-tttft-ms": "500", "kubectl.kubernetes.io/x": "{}"}

    made.apply(OBJECTIVE, of(LLM_D_GROUP), {("default", "chat"): custom(objective)})

    assert (made.priorities, made.refused) == ({"chat": 1}, 0)
    (said,) = caplog.messages
    assert 'llm-d.ai/slo-tttft-ms: unknown annotation is ignored; did you mean "slo-ttft-ms"?' in said


def test_objects_of_other_pools_do_not_count() -> None:
    made = InferenceObjects(PoolName("pool"))

    changed = made.apply(OBJECTIVE, of(LLM_D_GROUP), {("default", "o"): custom(make_objective("o", 1, pool="other"))})

    assert not changed
    assert made.priorities == {}


def test_an_object_that_changes_to_another_pool_is_gone() -> None:
    made = InferenceObjects(PoolName("pool"))
    key = ("default", "o")
    made.apply(OBJECTIVE, of(LLM_D_GROUP), {key: custom(make_objective("o", 1))})

    made.apply(OBJECTIVE, of(LLM_D_GROUP), {key: custom(make_objective("o", 1, pool="other"))})

    assert made.priorities == {}


def test_rewrites_are_read_as_from_files() -> None:
    made = InferenceObjects(PoolName("pool"))
    key = ("default", "r")
    made.apply(REWRITE, of(LLM_D_GROUP, "inferencemodelrewrites"), {key: custom(make_rewrite("r", "food", "food-v2"))})

    (rewrite,) = made.rewrites
    assert rewrite.rules[0].targets[0].model == "food-v2"
    assert rewrite.rules[0].models == {"food"}


def test_an_object_that_cannot_be_used_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    made = InferenceObjects(PoolName("pool"))
    wrong = make_objective("o", 1)
    wrong["spec"]["priority"] = "high"

    made.apply(OBJECTIVE, of(LLM_D_GROUP), {("default", "o"): custom(wrong)})

    assert made.refused == 1
    assert "InferenceObjective.llm-d.ai default/o: spec.priority: expected a whole number" in caplog.text
