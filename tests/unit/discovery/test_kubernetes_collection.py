"""What is known of objects after lists and events in any order."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from epp.discovery.kubernetes.collection import MAX_TOMBSTONES, Changes, Collection
from epp.discovery.kubernetes.objects import Pod
from tests.support.kube_objects import make_pod


def raw(obj: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(obj).encode())


def pod(name: str, version: int, **options: Any) -> msgspec.Raw:
    return raw(make_pod(name, version=str(version), **options))


class Pods(Collection[Pod]):
    def __init__(self) -> None:
        super().__init__("Pod", msgspec.json.Decoder(Pod))

    def list(self, *items: msgspec.Raw, revision: int) -> Changes[Pod]:
        self.begin_list()
        self.add_page(items)
        return self.end_list(str(revision))

    def hear(self, type: str, item: msgspec.Raw) -> Changes[Pod]:
        changes: Changes[Pod] = {}
        self.apply(type, item, changes)
        return changes

    @property
    def names(self) -> list[str]:
        return sorted(name for _, name in self.objects)


KEY = ("default", "a")


def test_a_list_says_what_has_come_changed_and_gone() -> None:
    pods = Pods()
    pods.list(pod("a", 1), pod("b", 2), pod("c", 3), revision=3)

    changes = pods.list(pod("a", 1), pod("b", 5), pod("d", 6), revision=6)

    assert {name: obj is not None for (_, name), obj in changes.items()} == {"b": True, "c": False, "d": True}
    assert pods.revision == "6"


def test_nothing_of_a_list_counts_before_it_is_whole() -> None:
    pods = Pods()
    pods.list(pod("a", 1), revision=1)
    pods.begin_list()
    pods.add_page([pod("b", 2)])

    assert pods.names == ["a"]


def test_events_bring_change_and_take_away() -> None:
    pods = Pods()
    pods.list(revision=1)

    pods.hear("ADDED", pod("a", 2))
    pods.hear("MODIFIED", pod("a", 3, ip="10.0.0.9"))
    assert pods.objects[KEY].status.pod_ip == "10.0.0.9"

    assert pods.hear("DELETED", pod("a", 4)) == {KEY: None}
    assert pods.names == []


def test_a_watch_begins_behind_the_newest_event_or_bookmark() -> None:
    pods = Pods()
    pods.list(revision=1)
    pods.hear("ADDED", pod("a", 7))
    assert pods.revision == "7"

    pods.hear("BOOKMARK", raw({"kind": "Pod", "metadata": {"resourceVersion": "90"}}))
    pods.hear("ADDED", pod("b", 8))

    assert pods.revision == "90"


@pytest.mark.parametrize("type", ["ADDED", "MODIFIED"])
def test_an_older_event_changes_nothing(type: str) -> None:
    pods = Pods()
    pods.list(pod("a", 5, ip="10.0.0.5"), revision=5)

    assert pods.hear(type, pod("a", 4, ip="10.0.0.4")) == {}
    assert pods.objects[KEY].status.pod_ip == "10.0.0.5"
    assert pods.outdated == 1


def test_an_older_event_brings_no_deleted_object_back() -> None:
    pods = Pods()
    pods.list(revision=1)
    pods.hear("ADDED", pod("a", 2))
    pods.hear("DELETED", pod("a", 4))

    pods.hear("MODIFIED", pod("a", 3))

    assert pods.names == []


def test_an_event_from_before_the_list_brings_nothing_back() -> None:
    pods = Pods()
    pods.list(revision=9)

    pods.hear("ADDED", pod("a", 3))

    assert pods.names == []


def test_a_deletion_that_carries_the_last_known_version_counts() -> None:
    pods = Pods()
    pods.list(pod("a", 5), revision=9)

    pods.hear("DELETED", pod("a", 5))

    assert pods.names == []


def test_an_old_deletion_does_not_take_away_what_was_made_again() -> None:
    pods = Pods()
    pods.list(pod("a", 8, uid="second"), revision=9)

    pods.hear("DELETED", pod("a", 5, uid="first"))

    assert pods.names == ["a"]


def test_an_object_that_is_made_again_is_known_again() -> None:
    pods = Pods()
    pods.list(pod("a", 1), revision=1)
    pods.hear("DELETED", pod("a", 2))

    pods.hear("ADDED", pod("a", 3))

    assert pods.names == ["a"]


def test_an_object_that_cannot_be_read_is_as_good_as_gone(caplog: pytest.LogCaptureFixture) -> None:
    pods = Pods()
    pods.list(pod("a", 1), pod("b", 1), revision=1)
    wrong = make_pod("a", version="2")
    wrong["status"] = []

    assert pods.hear("MODIFIED", raw(wrong)) == {KEY: None}
    pods.hear("MODIFIED", raw(wrong | {"status": [1]}))

    assert pods.malformed == 2
    assert [r.message for r in caplog.records] == [
        "Pod default/a cannot be read and is left out: Expected `object`, got `array` - at `$.status`"
    ]
    assert pods.list(raw(wrong), pod("b", 1), revision=5) == {}
    assert pods.hear("MODIFIED", pod("a", 6)).keys() == {KEY}


@pytest.mark.parametrize("wrong", [{}, [], {"metadata": {}}, {"metadata": {"name": 3}}, None])
def test_what_has_no_name_is_counted_and_left_out(wrong: Any) -> None:
    pods = Pods()
    pods.list(raw(wrong), pod("b", 1), revision=1)
    pods.hear("ADDED", raw(wrong))
    pods.hear("BOOKMARK", raw(wrong))

    assert pods.malformed >= 2
    assert pods.names == ["b"]


def test_versions_that_are_no_numbers_are_taken_as_they_come() -> None:
    pods = Pods()
    pods.list(raw(make_pod("a", version="x1")), revision=0)

    pods.hear("MODIFIED", raw(make_pod("a", "10.0.0.9", version="x2")))
    assert pods.objects[KEY].status.pod_ip == "10.0.0.9"

    pods.hear("DELETED", raw(make_pod("a", version="x3")))
    assert pods.names == []


def test_what_is_remembered_of_deleted_objects_is_bounded() -> None:
    pods = Pods()
    pods.list(revision=1)
    for n in range(MAX_TOMBSTONES + 10):
        pods.hear("DELETED", pod(f"p{n}", n + 2))

    assert len(pods._tombstones) <= MAX_TOMBSTONES


def test_a_kind_that_is_gone_takes_its_objects_along() -> None:
    pods = Pods()
    pods.list(pod("a", 1), revision=1)

    assert pods.forget() == {KEY: None}
    assert pods.revision == ""
