"""Endpoints from an API server that does everything a real one does rarely: hang, forget, refuse, lie, vanish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from epp.api import NoParams, ObjectKind, ObjectListener
from epp.discovery.kubernetes import resources
from epp.discovery.kubernetes.discovery import Wanted
from epp.discovery.kubernetes.resources import EXPERIMENTAL_GROUP, INFERENCE_GROUP, LLM_D_GROUP, Resource
from epp.discovery.kubernetes.watcher import Timing
from tests.support.fake_kube import FakeKube
from tests.support.kube_discovery import Running, running
from tests.support.kube_objects import make_objective, make_pod, make_pool, make_rewrite
from tests.support.plugins import make_handle

PODS = resources.pods("default").path()
POOLS = Resource(INFERENCE_GROUP, "v1", "inferencepools", "default").path()
OLD_POOLS = Resource(EXPERIMENTAL_GROUP, "v1alpha2", "inferencepools", "default").path()
OBJECTIVES = Resource(LLM_D_GROUP, "v1alpha2", "inferenceobjectives", "default").path()
REWRITES = Resource(LLM_D_GROUP, "v1alpha2", "inferencemodelrewrites", "default").path()
X_OBJECTIVES = Resource(EXPERIMENTAL_GROUP, "v1alpha2", "inferenceobjectives", "default").path()


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    kube = FakeKube()
    kube.install(PODS, POOLS)
    await kube.start()
    yield kube
    await kube.stop()


@pytest.fixture
async def run(kube: FakeKube, tmp_path: Path) -> AsyncIterator[Running]:
    """In step, with a pool on port 8000 and the Pods a and b."""
    kube.put(POOLS, make_pool())
    kube.put(PODS, pod("a", 1))
    kube.put(PODS, pod("b", 2))
    async with running(kube.kubeconfig(tmp_path)) as run:
        await run.until(lambda: run.ready)
        await run.endpoints("10.0.0.1:8000", "10.0.0.2:8000")
        await run.until(lambda: kube.watching(PODS) == 1 and kube.watching(POOLS) == 1)
        yield run


def pod(name: str, number: int, **options: Any) -> dict[str, Any]:
    options.setdefault("labels", {"app": "vllm"})
    return make_pod(name, f"10.0.0.{number}", **options)


A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"


# --- Pods ----------------------------------------------------------------------------------------------------------------


async def test_pods_come_and_go(run: Running, kube: FakeKube) -> None:
    kube.put(PODS, pod("c", 3))
    await run.endpoints(A, B, C)

    kube.drop(PODS, "a")
    await run.endpoints(B, C)


async def test_a_clock_that_jumps_changes_nothing(
    run: Running, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is set a day on, and back: nobody is silent, outdated or gone because of that."""
    real = time.time
    for number, jump_s in enumerate((86_400.0, -86_400.0, 0.0), 3):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
        kube.put(PODS, pod(f"p{number}", number))
        await run.endpoints(A, B, *(f"10.0.0.{n}:8000" for n in range(3, number + 1)))

    assert run.ready
    assert kube.watching(PODS) == 1
    assert all(status.lists == 1 and not status.errors for status in run.discovery.statuses() if status.kind == "Pod")


async def test_a_pod_serves_while_it_is_ready(run: Running, kube: FakeKube) -> None:
    kube.put(PODS, pod("a", 1, ready=False))
    await run.endpoints(B)

    kube.put(PODS, pod("a", 1))
    await run.endpoints(A, B)

    kube.put(PODS, pod("a", 1, deleted=True))
    await run.endpoints(B)


async def test_active_ports_are_followed(run: Running, kube: FakeKube) -> None:
    kube.put(POOLS, make_pool("pool", 8000, 8001))
    await run.endpoints(A, B, "10.0.0.1:8001", "10.0.0.2:8001")

    kube.put(PODS, pod("a", 1, annotations={"llm-d.ai/active-ports": "8001"}))

    await run.endpoints("10.0.0.1:8001", B, "10.0.0.2:8001")


async def test_labels_of_a_living_pod_are_followed(run: Running, kube: FakeKube) -> None:
    a = run.datastore.get(("default", "a-rank-0"))
    assert a is not None

    kube.put(PODS, pod("a", 1, labels={"app": "vllm", "llm-d.ai/role": "prefill"}))

    await run.until(lambda: a.labels.get("llm-d.ai/role") == "prefill")
    assert run.datastore.get(("default", "a-rank-0")) is a


async def test_only_pods_that_the_pool_selects_count(run: Running, kube: FakeKube) -> None:
    kube.put(PODS, pod("c", 3, labels={"app": "other"}))
    kube.put(PODS, pod("d", 4))
    await run.endpoints(A, B, "10.0.0.4:8000")

    kube.put(PODS, pod("d", 4, labels={"app": "other"}))
    await run.endpoints(A, B)


# --- the pool ------------------------------------------------------------------------------------------------------------


async def test_a_pool_that_is_deleted_takes_everything_along_and_may_come_back(run: Running, kube: FakeKube) -> None:
    kube.drop(POOLS, "pool")
    await run.until(lambda: not run.ready)
    assert run.addresses == []
    assert not run.datastore.synced
    assert run.discovery.notes() == [
        "kubernetes: there is no InferencePool pool in namespace default, or it is being deleted"
    ]

    kube.put(POOLS, make_pool())

    await run.until(lambda: run.ready)
    assert run.addresses == [A, B]


async def test_a_pool_that_is_being_deleted_is_gone(run: Running, kube: FakeKube) -> None:
    pool = make_pool()
    pool["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"

    kube.put(POOLS, pool)

    await run.until(lambda: not run.ready)
    assert run.addresses == []


async def test_another_selector_selects_other_pods(run: Running, kube: FakeKube) -> None:
    kube.put(PODS, pod("c", 3, labels={"app": "sglang"}))

    kube.put(POOLS, make_pool(labels={"app": "sglang"}))
    await run.endpoints(C)

    kube.put(POOLS, make_pool(labels={"app": "none"}))
    kube.put(POOLS, make_pool(labels={"app": "vllm"}))
    await run.endpoints(A, B)
    assert run.ready
    kube.drop(PODS, "a")
    await run.endpoints(B)


async def test_other_ports_are_other_endpoints(run: Running, kube: FakeKube) -> None:
    kube.put(POOLS, make_pool("pool", 9000))

    await run.endpoints("10.0.0.1:9000", "10.0.0.2:9000")
    assert kube.count("list pods") == 1


async def test_a_pool_that_cannot_be_used_leaves_what_was(run: Running, kube: FakeKube) -> None:
    pool = make_pool()
    pool["spec"]["targetPorts"] = []
    kube.put(POOLS, pool)

    await run.until(lambda: bool(run.discovery.notes()))
    assert "expected 1 to 8 ports, got 0; what it said before stays in force" in run.discovery.notes()[0]
    assert run.addresses == [A, B]


async def test_without_its_definition_the_pool_is_waited_for(kube: FakeKube, tmp_path: Path) -> None:
    kube.uninstall(POOLS)
    async with running(kube.kubeconfig(tmp_path)) as run:
        await run.until(lambda: bool(run.discovery.notes()))
        assert "has no kind InferencePool in group inference.networking.k8s.io" in run.discovery.notes()[0]

        kube.install(POOLS)
        kube.put(POOLS, make_pool())
        kube.put(PODS, pod("a", 1))

        await run.endpoints(A)
        await run.until(lambda: run.ready)


async def test_a_pool_that_is_missing_is_logged_once(
    kube: FakeKube, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log of a Pod that does not become ready is what people look at first."""
    kube.uninstall(POOLS)
    async with running(kube.kubeconfig(tmp_path)) as run:
        for said in (
            "has no kind InferencePool in group inference.networking.k8s.io",
            "there is no InferencePool pool",
        ):
            await run.until(lambda said=said: said in caplog.text)  # type: ignore[misc]
            kube.install(POOLS)
        kube.put(POOLS, make_pool())
        await run.until(lambda: run.ready)

    for said in ("has no kind InferencePool", "there is no InferencePool"):
        assert caplog.text.count(said) == 1


async def test_the_older_group_is_used_where_the_other_is_not_installed(kube: FakeKube, tmp_path: Path) -> None:
    kube.uninstall(POOLS)
    kube.install(OLD_POOLS)
    spec = {"selector": {"app": "vllm"}, "targetPortNumber": 8000}
    kube.put(OLD_POOLS, {"metadata": {"name": "pool", "namespace": "default"}, "spec": spec})
    kube.put(PODS, pod("a", 1))

    async with running(kube.kubeconfig(tmp_path)) as run:
        await run.endpoints(A)


async def test_pods_are_served_by_a_selector_without_a_pool(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(PODS, pod("a", 1))
    kube.put(PODS, pod("c", 3, labels={"app": "other"}))
    wanted = Wanted("default", selector="app=vllm", target_ports=(8000, 8001))

    async with running(kube.kubeconfig(tmp_path), wanted) as run:
        await run.endpoints(A, "10.0.0.1:8001")
        await run.until(lambda: run.ready)

    assert {request.split()[1] for request in kube.requests} == {"pods"}


# --- objectives and rewrites ---------------------------------------------------------------------------------------------


async def test_objectives_and_rewrites_are_followed(run: Running, kube: FakeKube) -> None:
    kube.install(OBJECTIVES, REWRITES, X_OBJECTIVES)
    kube.put(OBJECTIVES, make_objective("batch", -1))
    kube.put(X_OBJECTIVES, make_objective("chat", 5, group=EXPERIMENTAL_GROUP))
    kube.put(REWRITES, make_rewrite("r", "food", "food-v2"))
    datastore = run.datastore

    await run.until(lambda: (datastore.priority_of("batch"), datastore.priority_of("chat")) == (-1, 5))
    await run.until(lambda: datastore.rewrite("food") == ("r", "food-v2"))

    kube.drop(OBJECTIVES, "batch")
    kube.put(X_OBJECTIVES, make_objective("chat", 9, group=EXPERIMENTAL_GROUP))
    await run.until(lambda: (datastore.priority_of("batch"), datastore.priority_of("chat")) == (0, 9))


async def test_it_is_ready_once_objectives_are_known(kube: FakeKube, tmp_path: Path) -> None:
    kube.install(OBJECTIVES, REWRITES, X_OBJECTIVES)
    kube.put(POOLS, make_pool())
    kube.put(OBJECTIVES, make_objective("batch", -1))
    priorities: list[int] = []

    async with running(kube.kubeconfig(tmp_path)) as run:
        run.on_health = lambda: priorities.append(run.datastore.priority_of("batch"))
        await run.until(lambda: run.ready)

    assert priorities == [-1]


async def test_a_definition_that_is_deleted_takes_its_objects_along(run: Running, kube: FakeKube) -> None:
    kube.install(OBJECTIVES)
    kube.put(OBJECTIVES, make_objective("batch", -1))
    await run.until(lambda: run.datastore.priority_of("batch") == -1)

    kube.uninstall(OBJECTIVES)
    kube.end_watches()

    await run.until(lambda: run.datastore.priority_of("batch") == 0)
    assert run.addresses == [A, B]


async def test_what_may_not_be_read_is_said_and_keeps_no_pod_from_serving(kube: FakeKube, tmp_path: Path) -> None:
    kube.install(OBJECTIVES)
    kube.fail("list", "inferenceobjectives", 403, times=3)
    kube.put(POOLS, make_pool())
    kube.put(PODS, pod("a", 1))
    kube.put(OBJECTIVES, make_objective("batch", -1))

    async with running(kube.kubeconfig(tmp_path)) as run:
        await run.until(lambda: run.ready)
        await run.until(lambda: run.datastore.priority_of("batch") == -1)
        errors = run.status("InferenceObjective.llm-d.ai").errors

    assert errors == {"forbidden": 3}


# --- objects that plugins ask for ----------------------------------------------------------------------------------------

WIDGETS = Resource("example.com", "v1", "widgets", "default").path()
WIDGET = ObjectKind("Widget", "v1", "example.com")


class Notes(ObjectListener):
    """Writes down what it is told; another one raises."""

    type = "notes"

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(NoParams(), make_handle())
        self.told: list[tuple[str, str, Any]] = []
        self._fails = fails

    def object_changed(self, kind: ObjectKind, obj: Any) -> None:
        self.told.append((kind.kind, obj["metadata"]["name"], obj["spec"]))
        if self._fails:
            raise ValueError("no")

    def object_removed(self, kind: ObjectKind, namespace: str, name: str) -> None:
        self.told.append((kind.kind, f"{namespace}/{name}", None))


async def test_plugins_are_told_of_the_objects_that_they_ask_for(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(POOLS, make_pool())
    kube.install(WIDGETS)
    kube.put(WIDGETS, {"metadata": {"name": "w", "namespace": "default"}, "spec": {"size": 1}})
    notes, failing = Notes(), Notes(fails=True)

    async with running(kube.kubeconfig(tmp_path), listeners={WIDGET: [failing, notes]}) as run:
        await run.until(lambda: len(notes.told) == 1)
        kube.put(WIDGETS, {"metadata": {"name": "w", "namespace": "default"}, "spec": {"size": 2}})
        await run.until(lambda: len(notes.told) == 2)  # what happens at once may be told as one change
        kube.drop(WIDGETS, "w")
        await run.until(lambda: len(notes.told) == 3)
        assert run.status("Widget.example.com for plugins").events == 2

    assert notes.told == [("Widget", "w", {"size": 1}), ("Widget", "w", {"size": 2}), ("Widget", "default/w", None)]
    assert len(failing.told) == 3


# --- faults --------------------------------------------------------------------------------------------------------------


async def test_while_the_api_server_is_away_everything_stays(run: Running, kube: FakeKube) -> None:
    await kube.stop()
    await run.until(lambda: any("cannot be reached" in note for note in run.discovery.notes()))

    assert run.addresses == [A, B]
    assert run.ready
    await run.until(lambda: run.status("Pod").age_s > 0)

    kube.drop(PODS, "a")
    kube.put(PODS, pod("c", 3))
    await kube.start()
    await run.endpoints(B, C)
    await run.until(lambda: run.discovery.notes() == [])
    assert run.status("Pod").age_s == 0


async def test_a_watch_that_ends_goes_on_where_it_was(run: Running, kube: FakeKube) -> None:
    kube.end_watches()
    kube.put(PODS, pod("c", 3))

    await run.endpoints(A, B, C)
    assert kube.count("list pods") == 1


async def test_what_happened_before_a_version_that_is_gone_is_made_up_for(run: Running, kube: FakeKube) -> None:
    await kube.stop()
    kube.drop(PODS, "a")
    kube.put(PODS, pod("c", 3))
    kube.compact()
    await kube.start()

    await run.endpoints(B, C)
    assert run.status("Pod").lists == 2
    assert run.status("Pod").errors["gone"] == 1


async def test_a_list_that_expires_between_pages_begins_anew(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(POOLS, make_pool())
    for n in range(1, 6):
        kube.put(PODS, pod(f"p{n}", n))
    expired: list[str] = []

    def expire() -> None:
        if kube.queries[-1].get("labelSelector") and not expired:
            expired.append("once")
            kube.compact()

    kube.page_hook = expire
    async with running(kube.kubeconfig(tmp_path)) as run:
        await run.endpoints(*(f"10.0.0.{n}:8000" for n in range(1, 6)))
        await run.until(lambda: run.ready)
        assert run.status("Pod").errors == {"gone": 1}


async def test_a_watch_that_hangs_is_opened_again(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(POOLS, make_pool())
    kube.put(PODS, pod("a", 1))
    timing = Timing(first_retry_s=0.001, last_retry_s=0.02, silence_s=0.5, brief_s=0.0)
    async with running(kube.kubeconfig(tmp_path), timing=timing) as run:
        await run.endpoints(A)
        kube.silent = True
        kube.put(PODS, pod("b", 2))
        watches = kube.count("watch pods")
        await run.until(lambda: kube.count("watch pods") > watches)

        kube.silent = False

        await run.endpoints(A, B)
        assert run.status("Pod").lists == 1


async def test_a_kind_that_nothing_happens_to_is_no_trouble(kube: FakeKube, tmp_path: Path) -> None:
    """A real API server sends no bookmarks then, so that its silence says nothing."""
    kube.put(POOLS, make_pool())
    # An answer that takes as long to begin is trouble.
    timing = Timing(first_retry_s=0.001, last_retry_s=0.02, silence_s=1.0, brief_s=0.0)
    async with running(kube.kubeconfig(tmp_path), timing=timing) as run:
        await run.until(lambda: kube.count("watch inferencepools") >= 3)

        assert run.status("InferencePool").errors == {}
        assert run.status("InferencePool").lists == 1
        assert run.health == [True]


async def test_a_watch_that_falls_silent_is_counted(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(POOLS, make_pool())
    timing = Timing(first_retry_s=0.001, last_retry_s=0.02, silence_s=0.5, brief_s=0.0)
    async with running(kube.kubeconfig(tmp_path), timing=timing) as run:

        def heard() -> bool:
            kube.bookmark(POOLS)  # to the watch that is open now, if any is
            return run.status("InferencePool").events > 0

        await run.until(heard)

        await run.until(lambda: run.status("InferencePool").errors.get("silent", 0) >= 1)


async def test_a_server_that_asks_to_wait_is_waited_for(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(POOLS, make_pool())
    kube.put(PODS, pod("a", 1))
    kube.fail("list", "pods", 429, Retry_After="1")
    listed: list[tuple[float, list[str]]] = []  # when, and what was noted at that time
    async with running(kube.kubeconfig(tmp_path)) as run:
        asked_s = time.monotonic()
        kube.page_hook = lambda: listed.append((time.monotonic(), run.discovery.notes()))
        await run.endpoints(A)

        listed_s, notes = listed[-1]
        assert kube.count("list pods") == 2
        assert listed_s - asked_s > 0.99
        assert any("429" in note for note in notes)
        assert run.status("Pod").errors == {"throttled": 1}


async def test_a_token_that_expires_is_replaced_without_a_loss(run: Running, kube: FakeKube, tmp_path: Path) -> None:
    kube.token = "second"
    kube.end_watches()
    await run.until(lambda: any("credentials" in note for note in run.discovery.notes()))
    assert run.addresses == [A, B]

    (tmp_path / "token").write_text("second")
    kube.put(PODS, pod("c", 3))

    await run.endpoints(A, B, C)
    await run.until(lambda: run.discovery.notes() == [])


async def test_a_right_that_is_taken_away_is_named_and_everything_stays(run: Running, kube: FakeKube) -> None:
    kube.fail("watch", "pods", 403, times=1000)
    kube.end_watches()

    await run.until(lambda: bool(run.discovery.notes()))
    (note,) = run.discovery.notes()
    assert 'a Role in namespace default: apiGroups [""], resources ["pods"], verbs ["watch"]' in note
    assert run.addresses == [A, B]

    kube.faults.clear()
    kube.put(PODS, pod("c", 3))
    await run.endpoints(A, B, C)


async def test_events_out_of_order_change_nothing(run: Running, kube: FakeKube) -> None:
    old = dict(kube.objects[PODS]["a"])
    kube.put(PODS, pod("a", 3))
    await run.endpoints(B, C)

    kube.say(PODS, {"type": "MODIFIED", "object": old})
    kube.say(PODS, {"type": "DELETED", "object": old})
    kube.put(PODS, pod("d", 4))

    await run.endpoints(B, C, "10.0.0.4:8000")
    assert run.status("Pod").errors["outdated"] == 2


async def test_objects_that_cannot_be_read_are_left_out(run: Running, kube: FakeKube) -> None:
    wrong = pod("c", 3)
    wrong["status"] = "broken"
    kube.put(PODS, wrong)
    kube.say(PODS, {"type": "ADDED", "object": {"metadata": {}}})
    kube.put(PODS, pod("d", 4))

    await run.endpoints(A, B, "10.0.0.4:8000")
    assert run.status("Pod").errors["malformed"] == 2


async def test_a_line_that_is_no_event_is_survived(run: Running, kube: FakeKube) -> None:
    kube.say(PODS, {"nonsense": True})
    kube.put(PODS, pod("c", 3))

    await run.endpoints(A, B, C)


async def test_a_404_for_a_moment_takes_nothing_away(run: Running, kube: FakeKube) -> None:
    kube.fail("watch", "inferencepools", 404)
    kube.end_watches()

    await run.until(lambda: run.status("InferencePool").errors.get("not_found", 0) == 1)
    await run.until(lambda: kube.watching(POOLS) == 1)
    assert run.ready
    assert run.health == [True]


async def test_a_backup_that_takes_versions_back_is_listed_anew(run: Running, kube: FakeKube) -> None:
    kube.fail("watch", "pods", 504)
    kube.end_watches()

    await run.until(lambda: run.status("Pod").lists == 2)


async def test_nothing_is_left_when_it_ends(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(POOLS, make_pool())
    before = asyncio.all_tasks()
    async with running(kube.kubeconfig(tmp_path)) as run:
        await run.until(lambda: run.ready)
        await run.until(lambda: kube.watching(PODS) == 1)

    def nobody_watches() -> bool:
        kube.bookmark(PODS)  # a server notices when it writes
        kube.bookmark(POOLS)
        return not kube.watching(PODS) and not kube.watching(POOLS)

    await run.until(nobody_watches)
    own = {task for task in asyncio.all_tasks() - before if "watch" in task.get_name()}
    assert own == set()
