"""Whatever is listed and heard, in whatever order: at the end the endpoints are those of the Pods that there are."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.data.datastore import Datastore
from epp.discovery.kubernetes.collection import Changes, Collection
from epp.discovery.kubernetes.endpoints import Roster, endpoints_of
from epp.discovery.kubernetes.objects import Pod
from tests.support.kube_objects import make_pod

NAMES = ("a", "b", "c")
PORTS = ((8000,), (8000, 8001), (9000, 8001, 8002))

_states = st.fixed_dictionaries(
    {
        "ip": st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "", "x"]),
        "ready": st.booleans(),
        "deleted": st.sampled_from([False, False, True]),
        "labels": st.sampled_from([{}, {"role": "decode"}]),
        "annotations": st.sampled_from([{}, {"llm-d.ai/active-ports": "8001"}]),
    }
)
_steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(NAMES), _states),
    st.tuples(st.just("delete"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("hear"), st.integers(0, 3), st.none()),  # that many events arrive
    st.tuples(st.just("hear again"), st.integers(0, 30), st.none()),  # an event that has come before
    st.tuples(st.just("swap"), st.integers(0, 5), st.none()),  # two events that have not arrived change places
    st.tuples(st.just("list"), st.none(), st.none()),  # the watch was lost, with all that it had not told
    st.tuples(st.just("ports"), st.sampled_from(PORTS), st.none()),
)


class World:
    """An API server, a watch with events under way, and our side of it."""

    def __init__(self) -> None:
        self.revision = 1
        self.pods: dict[str, dict[str, Any]] = {}
        self.under_way: list[tuple[str, bytes]] = []
        self.told: list[tuple[str, bytes]] = []
        self.collection = Collection("Pod", msgspec.json.Decoder(Pod))
        self.roster = Roster(PORTS[0])
        self.datastore = Datastore()
        self.list()

    def put(self, name: str, state: dict[str, Any]) -> None:
        self.revision += 1
        uid = self.pods[name]["metadata"]["uid"] if name in self.pods else f"{name}-{self.revision}"
        event = "MODIFIED" if name in self.pods else "ADDED"
        self.pods[name] = make_pod(name, uid=uid, version=str(self.revision), **state)
        self.under_way.append((event, json.dumps(self.pods[name]).encode()))

    def delete(self, name: str) -> None:
        if name in self.pods:
            self.revision += 1
            gone = self.pods.pop(name)
            gone["metadata"]["resourceVersion"] = str(self.revision)
            self.under_way.append(("DELETED", json.dumps(gone).encode()))

    def hear(self, count: int) -> None:
        heard, self.under_way = self.under_way[:count], self.under_way[count:]
        self.told += heard
        self.take(heard)

    def take(self, events: list[tuple[str, bytes]]) -> None:
        changes: Changes[Pod] = {}
        for type, raw in events:
            self.collection.apply(type, msgspec.Raw(raw), changes)
        self.apply(changes)

    def list(self) -> None:
        self.told += self.under_way
        self.under_way.clear()
        self.collection.begin_list()
        for pod in self.pods.values():
            self.collection.add_page([msgspec.Raw(json.dumps(pod).encode())])
        self.apply(self.collection.end_list(str(self.revision)))

    def use_ports(self, ports: tuple[int, ...]) -> None:
        delta = self.roster.use_ports(ports, self.collection.objects)
        self.datastore.change(delta.wanted, gone=delta.gone)

    def apply(self, changes: Changes[Pod]) -> None:
        delta = self.roster.apply(changes)
        self.datastore.change(delta.wanted, gone=delta.gone)

    def expected(self) -> dict[str, tuple[str, dict[str, str]]]:
        pods = [msgspec.convert(pod, Pod) for pod in self.pods.values()]
        specs = [spec for pod in pods for spec in endpoints_of(pod, self.roster.target_ports)]
        return {spec.name: (f"{spec.address}:{spec.port}", dict(spec.labels)) for spec in specs}

    def found(self) -> dict[str, tuple[str, dict[str, str]]]:
        return {e.name: (e.host_port, dict(e.labels)) for e in self.datastore.endpoints}


@settings(max_examples=300)
@given(st.lists(_steps, max_size=40))
def test_the_endpoints_are_those_of_the_pods_that_there_are(steps: list[tuple[str, Any, Any]]) -> None:
    world = World()
    for what, which, state in steps:
        if what == "put":
            world.put(which, state)
        elif what == "delete":
            world.delete(which)
        elif what == "hear":
            world.hear(which)
        elif what == "hear again" and world.told:
            world.take([world.told[which % len(world.told)]])
        elif what == "swap" and len(world.under_way) > 1:
            at = which % (len(world.under_way) - 1)
            world.under_way[at : at + 2] = reversed(world.under_way[at : at + 2])
        elif what == "list":
            world.list()
        elif what == "ports":
            world.use_ports(which)
        assert len({e.row for e in world.datastore.endpoints}) == len(world.datastore.fleet) == len(world.datastore)

    world.hear(len(world.under_way))

    assert world.found() == world.expected()
