"""The datastore keeps what stays, tells what changes, and never mixes up rows."""

from __future__ import annotations

import pytest

from epp.api import IN_FLIGHT_REQUESTS, WAITING_REQUESTS, ConfigError, Endpoint
from epp.data.datastore import Changes, Datastore
from epp.data.endpoint_spec import EndpointSpec


def spec(name: str, address: str = "10.0.0.1", port: int = 8000, **labels: str) -> EndpointSpec:
    return EndpointSpec(name, address, port, labels=labels)


class Recorder:
    """Writes down what it is told, with the row and whether the fleet still had the endpoint there."""

    def __init__(self, store: Datastore) -> None:
        self.store = store
        self.news: list[tuple[str, str, bool]] = []

    def endpoint_added(self, endpoint: Endpoint) -> None:
        self._note("added", endpoint)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._note("removed", endpoint)

    def endpoint_relabelled(self, endpoint: Endpoint) -> None:
        self._note("relabelled", endpoint)

    def _note(self, what: str, endpoint: Endpoint) -> None:
        self.news.append((what, endpoint.name, self.store.fleet.endpoints[endpoint.row] is endpoint))


def test_an_endpoint_that_stays_keeps_object_row_and_counters() -> None:
    store = Datastore()
    store.replace_all([spec("a"), spec("b", "10.0.0.2")])
    b = store.get(("default", "b"))
    assert b is not None
    store.fleet.columns[IN_FLIGHT_REQUESTS][b.row] = 7

    changes = store.replace_all([spec("b", "10.0.0.2"), spec("c", "10.0.0.3")])

    assert store.get(("default", "b")) is b
    assert store.fleet.columns[IN_FLIGHT_REQUESTS][b.row] == 7
    assert changes == Changes(added=1, removed=1)


def test_labels_change_in_place() -> None:
    store = Datastore()
    store.upsert(spec("a", role="prefill"))
    before = store.get(("default", "a"))

    changes = store.upsert(spec("a", role="decode"))

    assert store.get(("default", "a")) is before
    assert before is not None
    assert before.labels == {"role": "decode"}
    assert changes == Changes(relabelled=1)


def test_listeners_are_told_of_other_labels() -> None:
    store = Datastore()
    recorder = Recorder(store)
    store.add_listener(recorder)
    store.upsert(spec("a", role="prefill"))

    store.upsert(spec("a", role="decode"))

    assert recorder.news == [("added", "a", True), ("relabelled", "a", True)]


def test_what_goes_and_comes_in_one_change_is_another_endpoint() -> None:
    store = Datastore()
    store.replace_all([spec("a"), spec("b", "10.0.0.2")])
    before = store.get(("default", "a"))

    changes = store.change([spec("a")], gone=[("default", "a"), ("default", "nobody")])

    assert store.get(("default", "a")) is not before
    assert changes == Changes(added=1, removed=1)
    assert len(store) == 2


@pytest.mark.parametrize("changed", [spec("a", "10.0.0.9"), spec("a", port=8001)])
def test_another_address_or_port_is_another_endpoint(changed: EndpointSpec) -> None:
    store = Datastore()
    store.upsert(spec("a"))
    before = store.get(("default", "a"))
    assert before is not None
    store.fleet.columns[WAITING_REQUESTS][before.row] = 5

    store.upsert(changed)

    after = store.get(("default", "a"))
    assert after is not None
    assert after is not before
    assert not before.alive
    assert store.fleet.columns[WAITING_REQUESTS][after.row] == 0
    assert len(store) == len(store.fleet) == 1


def test_the_same_name_in_two_namespaces_is_two_endpoints() -> None:
    store = Datastore()

    store.replace_all([EndpointSpec("a", "10.0.0.1", 1), EndpointSpec("a", "10.0.0.1", 1, namespace="other")])

    assert len(store) == 2


def test_removal_is_told_while_the_row_is_still_the_endpoints() -> None:
    store = Datastore()
    recorder = Recorder(store)
    store.add_listener(recorder)

    store.upsert(spec("a"))
    store.upsert(spec("a", port=8001))
    store.remove(("default", "a"))

    assert recorder.news == [
        ("added", "a", True),
        ("removed", "a", True),
        ("added", "a", True),
        ("removed", "a", True),
    ]
    assert len(store.fleet) == 0


def test_a_late_listener_hears_of_the_endpoints_there_are() -> None:
    store = Datastore()
    store.upsert(spec("a"))
    recorder = Recorder(store)

    store.add_listener(recorder)

    assert recorder.news == [("added", "a", True)]


def test_a_removed_listener_hears_no_more() -> None:
    store = Datastore()
    recorder = Recorder(store)
    store.add_listener(recorder)
    store.remove_listener(recorder)

    store.upsert(spec("a"))

    assert recorder.news == []


def test_a_listener_that_raises_does_not_keep_the_news_from_others() -> None:
    class Raising(Recorder):
        def _note(self, what: str, endpoint: Endpoint) -> None:
            raise RuntimeError("no")

    store = Datastore()
    recorder = Recorder(store)
    store.add_listener(Raising(store))
    store.add_listener(recorder)

    store.replace_all([spec("a")])
    store.replace_all([])

    assert [news[0] for news in recorder.news] == ["added", "removed"]


def test_an_impossible_endpoint_changes_nothing() -> None:
    store = Datastore()
    store.upsert(spec("a"))

    with pytest.raises(ConfigError, match="not an IP address"):
        store.replace_all([spec("b", "10.0.0.2"), spec("c", "nonsense")])

    assert [e.name for e in store.endpoints] == ["a"]


def test_removing_what_is_not_there_is_no_change() -> None:
    assert not Datastore().remove(("default", "a"))


def test_candidates_follow_the_endpoints() -> None:
    store = Datastore()
    store.replace_all([spec("a"), spec("b", "10.0.0.2")])
    assert [e.name for e in store.candidates_for(["10.0.0.2"])] == ["b"]

    store.remove(("default", "b"))

    assert len(store.candidates_for(["10.0.0.2"])) == 0
    assert [e.name for e in store.candidates_for()] == ["a"]


def test_an_endpoint_is_found_by_the_address_that_the_proxy_reports() -> None:
    store = Datastore()
    store.replace_all([spec("a"), spec("b", "::1", 8001)])

    found = [store.by_host_port(text) for text in ("10.0.0.1:8000", "[0:0:0:0:0:0:0:1]:8001", "10.0.0.1:9")]

    assert [e and e.name for e in found] == ["a", "b", None]


def test_clear_forgets_everything() -> None:
    store = Datastore()
    store.upsert(spec("a"))
    store.objectives.set("o", 3)
    store.synced = True

    store.clear()

    assert (len(store), store.priority_of("o"), store.synced, len(store.fleet)) == (0, 0, False, 0)


def test_who_does_not_answer_is_no_candidate_unless_nobody_answers() -> None:
    store = Datastore()
    store.replace_all([spec("a"), spec("b", "10.0.0.2"), spec("c", "10.0.0.3")])
    a, b, c = store.endpoints
    store.fleet.set_silent(a, True)
    store.fleet.set_silent(a, True)
    assert list(store.candidates_for()) == [b, c]
    assert list(store.candidates_for(["10.0.0.1:8000", "10.0.0.3:8000"])) == [c]

    store.fleet.set_silent(b, True)
    store.fleet.set_silent(c, True)
    assert list(store.candidates_for()) == [a, b, c]

    store.fleet.set_silent(c, False)
    store.replace_all([spec("b", "10.0.0.2"), spec("c", "10.0.0.3"), spec("d", "10.0.0.4")])
    d = store.get(("default", "d"))
    assert list(store.candidates_for()) == [c, d] or list(store.candidates_for()) == [d, c]
    assert not store.fleet.is_silent(a)
