"""Keeps a datastore as a pool's objects say: the pool itself, its Pods, its objectives and rewrites.

    pool ──► selector, ports ──► Pods ──► Roster ──► datastore
                                 objectives, rewrites ──► datastore

One watcher follows each kind. All else follows from the pool: when it goes, everything is forgotten and the picker is not
ready; when its selector changes, the Pods are listed anew while the endpoints stay; when its ports change, the endpoints are
made again of the Pods that are known.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from epp.api import ObjectKind, ObjectListener
from epp.data.datastore import Datastore
from epp.discovery.kubernetes import installed, resources
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.collection import Changes, Collection, Decoder
from epp.discovery.kubernetes.endpoints import Delta, Roster
from epp.discovery.kubernetes.inference_objects import KINDS, InferenceObjects
from epp.discovery.kubernetes.objects import Custom, InferencePool, Object, Pod, Whole, WholeDecoder
from epp.discovery.kubernetes.pools import PoolError, PoolWants, wants_of
from epp.discovery.kubernetes.resources import EXPERIMENTAL_GROUP, INFERENCE_GROUP, LLM_D_GROUP, Resource
from epp.discovery.kubernetes.watcher import Timing, Watcher
from epp.discovery.object_files import Pool

_log: Final = logging.getLogger(__name__)

OBJECT_VERSIONS: Final = ("v1alpha2", "v1alpha1")
POOL_VERSIONS: Final = {INFERENCE_GROUP: ("v1",), EXPERIMENTAL_GROUP: ("v1alpha2", "v1alpha1")}

T = TypeVar("T", bound=Object)
AnyWatcher: TypeAlias = Watcher[InferencePool] | Watcher[Pod] | Watcher[Custom] | Watcher[Whole]


class Wanted(msgspec.Struct, frozen=True):
    """What to follow: a pool by name, or Pods by `selector` and `target_ports` without one.

    `follow_objects`: objectives and rewrites of the pool, too.
    """

    namespace: str
    pool_name: str = ""
    pool_group: str = INFERENCE_GROUP
    selector: str = ""
    target_ports: tuple[int, ...] = ()
    follow_objects: bool = True


class WatchStatus(msgspec.Struct, frozen=True):
    """How the following of one kind fares, for metrics. `age_s`: how old what is known may be; inf before the first list."""

    kind: str
    age_s: float
    objects: int
    lists: int
    events: int
    errors: dict[str, int]


class _Session:
    """What is followed because of the pool, for as long as the pool is there."""

    def __init__(self, wants: PoolWants, pods: Watcher[Pod]) -> None:
        self.wants = wants
        self.roster = Roster(wants.target_ports)
        self.pods = pods
        self.objects: list[Watcher[Custom]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.pods_tasks: list[asyncio.Task[None]] = []  # the last one follows them, the others are ending

    @property
    def watchers(self) -> list[AnyWatcher]:
        return [self.pods, *self.objects]


class KubernetesDiscovery:
    """Run `run` for as long as it lasts; it ends when cancelled.

    `synced` is told whenever requests may begin to come, or may not any more: the pool and its Pods are known, and what there
    is to know of objectives and rewrites.
    """

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        datastore: Datastore,
        *,
        synced: Callable[[bool], None],
        clock: Callable[[], float],
        rng: random.Random,
        timing: Timing | None = None,
        listeners: Mapping[ObjectKind, Sequence[ObjectListener]] | None = None,
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._datastore = datastore
        self._synced = synced
        self._clock = clock
        self._rng = rng
        self._timing = timing or Timing()
        self._session: _Session | None = None
        self._group: asyncio.TaskGroup | None = None
        self._pool_problem = ""
        self._told_missing = ""
        self._past: dict[str, WatchStatus] = {}  # of watchers that are over, by kind: totals never shrink
        self._pool = self._watch_pool() if wanted.pool_name else None
        self._others = [self._watch_other(kind, told) for kind, told in (listeners or {}).items()]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                if self._pool is not None:
                    group.create_task(self._pool.run(), name="watch InferencePool")
                else:
                    self._begin(PoolWants(self._wanted.selector, self._wanted.target_ports))
                for watcher in self._others:
                    group.create_task(watcher.run(), name=f"watch {watcher.kind}")
                await asyncio.Event().wait()
            finally:
                self._group = None

    @property
    def app_protocol(self) -> str:
        """What the pool's servers speak; empty where nobody says."""
        return "" if self._session is None else self._session.wants.app_protocol

    # --- how it fares ----------------------------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        """What an operator should know: what is missing, what is not heard of, and since when."""
        notes = [f"kubernetes: {problem}"] if (problem := self._missing_pool()) else []
        for watcher in self._watchers():
            if watcher.trouble:
                since = f"as it was {watcher.age_s():.0f} s ago" if watcher.listed else "not known yet"
                notes.append(f"kubernetes: {watcher.kind}: {since}: {watcher.trouble}")
        return notes

    def statuses(self) -> Iterator[WatchStatus]:
        """One for each kind that is, or was, followed."""
        told = dict(self._past)
        for watcher in self._watchers():
            told[watcher.kind] = _status(watcher, self._past.get(watcher.kind))
        yield from told.values()

    def _watchers(self) -> list[AnyWatcher]:
        pool: list[AnyWatcher] = [self._pool] if self._pool is not None else []
        return pool + (self._session.watchers if self._session is not None else []) + self._others

    def _missing_pool(self) -> str:
        wanted, pool = self._wanted, self._pool
        if self._pool_problem or pool is None or self._session is not None or not pool.listed:
            return self._pool_problem
        if pool.absent:
            return f"the API server has no kind InferencePool in group {wanted.pool_group}; install its definition"
        return f"there is no InferencePool {wanted.pool_name} in namespace {wanted.namespace}, or it is being deleted"

    def _tell_missing(self) -> None:
        """Log it, once for as long as it stays the same."""
        problem = self._missing_pool()
        if problem and problem != self._told_missing:
            _log.warning("%s", problem)
        self._told_missing = problem

    # --- the pool --------------------------------------------------------------------------------------------------------

    def _watch_pool(self) -> Watcher[InferencePool]:
        wanted = self._wanted

        async def find() -> Resource | None:
            """By the group that is asked for; where that is the usual one and not installed, by the one before it."""
            groups = [wanted.pool_group]
            if wanted.pool_group == INFERENCE_GROUP:
                groups.append(EXPERIMENTAL_GROUP)
            for group in groups:
                versions = POOL_VERSIONS.get(group, ("v1",))
                found = await installed.find(
                    self._api, group, "inferencepools", versions=versions, namespace=wanted.namespace
                )
                if found is not None:
                    return found
            return None

        selectors = {"fieldSelector": f"metadata.name={wanted.pool_name}"}
        return self._watcher("InferencePool", InferencePool, find, self._pool_changed, selectors)

    def _pool_changed(self, resource: Resource, changes: Changes[InferencePool]) -> None:
        wanted = self._wanted
        pool = None if self._pool is None else self._pool.collection.objects.get((wanted.namespace, wanted.pool_name))
        self._pool_problem = ""
        if pool is None:
            self._end()
            return
        try:
            wants = wants_of(pool)
        except PoolError as error:
            self._pool_problem = f"InferencePool {wanted.pool_name}: {error}; what it said before stays in force"
            self._tell_missing()
            return
        if wants is None:
            self._end()
        elif self._session is None:
            self._begin(wants, resource.group)
        else:
            self._follow_pool(self._session, wants)

    def _follow_pool(self, session: _Session, wants: PoolWants) -> None:
        before, session.wants = session.wants, wants
        if wants.target_ports != before.target_ports:
            _log.info("the pool's ports are %s", ", ".join(map(str, wants.target_ports)))
            self._apply(session.roster.use_ports(wants.target_ports, session.pods.collection.objects))
        if wants.selector != before.selector:
            _log.info("the pool selects Pods by %s", wants.selector)
            ending = [task for task in session.pods_tasks if not task.done()]
            for task in ending:
                task.cancel()
            session.pods_tasks = [*ending, self._start(session, self._select_anew(session, ending), "watch Pods")]

    async def _select_anew(self, session: _Session, ending: list[asyncio.Task[None]]) -> None:
        if ending:
            await asyncio.wait(ending)
        session.pods.select({"labelSelector": session.wants.selector})
        await session.pods.run()

    # --- what follows from the pool --------------------------------------------------------------------------------------

    def _begin(self, wants: PoolWants, group: str = INFERENCE_GROUP) -> None:
        wanted = self._wanted
        pods = resources.pods(wanted.namespace)

        async def find_pods() -> Resource | None:
            return pods

        def pods_changed(resource: Resource, changes: Changes[Pod]) -> None:
            if self._session is session:
                self._apply(session.roster.apply(changes))
                self._check_synced()

        selectors = {"labelSelector": wants.selector}
        session = _Session(wants, self._watcher("Pod", Pod, find_pods, pods_changed, selectors))
        self._session = session
        session.pods_tasks = [self._start(session, session.pods.run(), "watch Pods")]
        if wanted.follow_objects and wanted.pool_name:
            made = InferenceObjects(Pool(wanted.pool_name, namespace=wanted.namespace, group=group))
            for of, kind in itertools.product((EXPERIMENTAL_GROUP, LLM_D_GROUP), KINDS):
                watcher = self._watch_objects(session, made, of, kind)
                session.objects.append(watcher)
                self._start(session, watcher.run(), f"watch {watcher.kind}")

    def _watch_objects(self, session: _Session, made: InferenceObjects, group: str, kind: str) -> Watcher[Custom]:
        async def find() -> Resource | None:
            return await installed.find(
                self._api, group, KINDS[kind], versions=OBJECT_VERSIONS, namespace=self._wanted.namespace
            )

        def changed(resource: Resource, changes: Changes[Custom]) -> None:
            if self._session is session and made.apply(kind, resource, changes):
                self._datastore.objectives.replace_all(made.priorities, made.slos)
                self._datastore.rewrites.replace_all(made.rewrites)

        return self._watcher(f"{kind}.{group}", Custom, find, changed, {})

    def _end(self) -> None:
        """The pool is gone, and with it everything that is known."""
        session, self._session = self._session, None
        if session is None:
            return
        _log.warning("the pool %s is gone: no endpoints, no objectives, not ready", self._wanted.pool_name)
        for task in session.tasks:
            task.cancel()
        for watcher in session.watchers:
            self._past[watcher.kind] = _status(watcher, self._past.get(watcher.kind), over=True)
        if self._wanted.follow_objects:
            self._datastore.clear()
        else:
            self._datastore.replace_all(())
            self._datastore.synced = False
        self._synced(False)

    def _apply(self, delta: Delta) -> None:
        if delta:
            changes = self._datastore.change(delta.wanted, gone=delta.gone)
            _log.info(
                "endpoints changed",
                extra={
                    "fields": {
                        "added": changes.added,
                        "removed": changes.removed,
                        "relabelled": changes.relabelled,
                        "endpoints": len(self._datastore),
                    }
                },
            )

    def _check_synced(self) -> None:
        self._tell_missing()
        session = self._session
        if session is None or self._datastore.synced:
            return
        if session.pods.listed and all(watcher.settled for watcher in session.objects):
            self._datastore.synced = True
            _log.info("in step with Kubernetes", extra={"fields": {"endpoints": len(self._datastore)}})
            self._synced(True)

    # --- what plugins asked for ------------------------------------------------------------------------------------------

    def _watch_other(self, kind: ObjectKind, listeners: Sequence[ObjectListener]) -> Watcher[Whole]:
        async def find() -> Resource | None:
            return await installed.find_kind(self._api, kind, namespace=self._wanted.namespace)

        def changed(resource: Resource, changes: Changes[Whole]) -> None:
            for (namespace, name), obj in changes.items():
                for listener in listeners:
                    try:
                        if obj is None:
                            listener.object_removed(kind, namespace, name)
                        else:
                            listener.object_changed(kind, obj.body)
                    except Exception:  # of a third party
                        _log.exception(
                            "plugin %s could not be told of %s %s/%s", listener.name, kind.kind, namespace, name
                        )

        title = f"{kind.kind}.{kind.group} for plugins" if kind.group else f"{kind.kind} for plugins"
        return self._make_watcher(title, WholeDecoder(), find, changed, {})

    # --- watchers --------------------------------------------------------------------------------------------------------

    def _watcher(
        self,
        kind: str,
        type: type[T],
        find: Callable[[], Awaitable[Resource | None]],
        changed: Callable[[Resource, Changes[T]], None],
        selectors: dict[str, str],
    ) -> Watcher[T]:
        return self._make_watcher(kind, msgspec.json.Decoder(type), find, changed, selectors)

    def _make_watcher(
        self,
        kind: str,
        decoder: Decoder[T],
        find: Callable[[], Awaitable[Resource | None]],
        changed: Callable[[Resource, Changes[T]], None],
        selectors: dict[str, str],
    ) -> Watcher[T]:
        return Watcher(
            self._api,
            Collection(kind, decoder),
            find,
            changed,
            selectors=selectors,
            clock=self._clock,
            rng=self._rng,
            timing=self._timing,
            settled=self._check_synced,
        )

    def _start(self, session: _Session, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(work, name=name)
        session.tasks.add(task)
        task.add_done_callback(session.tasks.discard)
        return task


def _status(watcher: AnyWatcher, past: WatchStatus | None, *, over: bool = False) -> WatchStatus:
    """With the totals of those that followed the same kind before. Of one that is `over` nothing is known."""
    collection = watcher.collection
    errors = Counter(watcher.errors)
    errors["malformed"] += collection.malformed
    errors["outdated"] += collection.outdated
    return WatchStatus(
        watcher.kind,
        age_s=math.inf if over else watcher.age_s(),
        objects=0 if over else len(collection.objects),
        lists=watcher.lists + (past.lists if past else 0),
        events=watcher.events + (past.events if past else 0),
        errors=dict(errors + Counter(past.errors if past else {})),
    )
