"""An API server that does as a test says: lists, watches, and every fault that a real one shows rarely."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.support.ports import free_port

Obj = dict[str, Any]

KINDS = {"widgets": "Widget"}  # of collections that are asked for by the name of their kind


@dataclass
class Fault:
    """What a request gets instead of its answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass
class Watcher:
    """Somebody who watches. An object that stops to be selected is DELETED for it, as a real server tells it."""

    collection: str
    labels: str = ""
    fields: str = ""
    events: asyncio.Queue[Obj | None] = field(default_factory=asyncio.Queue)

    def tell(self, event: Obj) -> None:
        obj = event.get("object", {})
        named = event.get("type") in ("ADDED", "MODIFIED") and obj.get("metadata", {}).get("name")
        if named and not selected(obj, self.labels, self.fields):
            event = {**event, "type": "DELETED"}
        self.events.put_nowait(event)


def selected(obj: Obj, labels: str, fields: str) -> bool:
    """Equality only, which is what pools ask for."""
    metadata = obj["metadata"]
    wanted = dict(part.split("=") for part in labels.split(",") if part)
    named = fields.removeprefix("metadata.name=") in ("", metadata["name"])
    return named and wanted.items() <= metadata.get("labels", {}).items()


class FakeKube:
    """Collections by path (`/api/v1/namespaces/default/pods`); only those of `served` exist.

    `token` is what callers must carry. `faults[verb, plural]` are used up one by one; `silent` watches say nothing at all.
    """

    def __init__(self) -> None:
        self.token = "first"
        self.served: set[str] = set()
        self.objects: dict[str, dict[str, Obj]] = defaultdict(dict)
        self.revision = 100
        self.oldest = 0  # revisions below are compacted
        self.faults: dict[tuple[str, str], list[Fault]] = defaultdict(list)
        self.silent = False
        self.requests: list[str] = []  # verb and plural, in order
        self.queries: list[dict[str, str]] = []
        self.page_hook: Any = None  # called after each page of a list, to change things in the middle of it
        self._history: dict[str, list[tuple[int, Obj]]] = defaultdict(list)
        self._snapshots: dict[str, tuple[int, list[Obj]]] = {}
        self._watchers: list[Watcher] = []
        self._runner: web.AppRunner | None = None
        self.port = free_port()

    # --- what is there -----------------------------------------------------------------------------------------------

    def install(self, *collections: str) -> None:
        """Serve these, and tell so where one asks which kinds there are."""
        self.served |= set(collections)

    def uninstall(self, *collections: str) -> None:
        for collection in collections:
            self.served.discard(collection)
            self.objects.pop(collection, None)

    def put(self, collection: str, obj: Obj) -> Obj:
        """Create or change an object; watchers are told."""
        name = obj["metadata"]["name"]
        self.revision += 1
        stored = json.loads(json.dumps(obj))
        stored["metadata"]["resourceVersion"] = str(self.revision)
        kind = "MODIFIED" if name in self.objects[collection] else "ADDED"
        self.objects[collection][name] = stored
        self._tell(collection, {"type": kind, "object": stored})
        return stored

    def drop(self, collection: str, name: str) -> None:
        gone = dict(self.objects[collection].pop(name))
        self.revision += 1
        gone["metadata"] = {**gone["metadata"], "resourceVersion": str(self.revision)}
        self._tell(collection, {"type": "DELETED", "object": gone})

    def say(self, collection: str, event: Obj) -> None:
        """Any event, however wrong, to those who watch now."""
        for watcher in self._watchers:
            if watcher.collection == collection:
                watcher.tell(event)

    def bookmark(self, collection: str) -> None:
        self.say(collection, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.revision)}}})

    def compact(self) -> None:
        """Forget everything but the present."""
        self.oldest = self.revision + 1
        self.revision += 1
        self._snapshots.clear()

    def end_watches(self) -> None:
        for watcher in self._watchers:
            watcher.events.put_nowait(None)

    def watching(self, collection: str) -> int:
        return sum(w.collection == collection for w in self._watchers)

    def fail(self, verb: str, plural: str, status: int, *, times: int = 1, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults[verb, plural] += [Fault(status, named)] * times

    def count(self, request: str) -> int:
        return self.requests.count(request)

    def kubeconfig(self, directory: Path) -> Path:
        """A file with the token in a file of its own, so that it can be replaced."""
        (directory / "token").write_text(self.token)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "epp", "user": {"tokenFile": str(directory / "token")}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "epp"}}],
        }
        path = directory / "kubeconfig.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    # --- serving -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Nobody listens any more; `start` again gives the same port."""
        self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        discovered = self._discover(request.path)
        if discovered is not None:
            return web.json_response(discovered) if discovered else _status(404, "NotFound")
        collection, name = self._place(request.path)
        plural = collection.rsplit("/", 1)[-1]
        watch = request.query.get("watch") == "true"
        verb = "watch" if watch else "list" if request.method == "GET" and not name else request.method.lower()
        self.requests.append(f"{verb} {plural}")
        self.queries.append(dict(request.query))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if self.faults[verb, plural]:
            fault = self.faults[verb, plural].pop(0)
            return _status(fault.status, fault.reason, fault.headers)
        if collection not in self.served:
            return web.Response(status=404, text="404 page not found\n")
        if verb == "watch":
            return await self._watch(request, collection)
        if verb == "list":
            return self._list(request, collection)
        return await self._one(request, collection, name)

    def _discover(self, path: str) -> Obj | None:
        """Versions of a group, or kinds of a version; empty when there are none. None: it is not that what is asked for."""
        parts = path.strip("/").split("/")
        if parts[0] != "apis" or len(parts) not in (2, 3):
            return None
        kinds = [c.strip("/").split("/") for c in self.served if c.startswith("/".join(("", *parts, "")))]
        if len(parts) == 2:
            return {"versions": [{"version": v} for v in sorted({k[2] for k in kinds})]} if kinds else {}
        listed = [{"name": k[-1], "kind": KINDS.get(k[-1], ""), "namespaced": True} for k in kinds]
        return {"resources": listed} if kinds else {}

    def _place(self, path: str) -> tuple[str, str]:
        if path in self.served:
            return path, ""
        collection, _, name = path.rpartition("/")
        return (collection, name) if collection in self.served else (path, "")

    async def _one(self, request: web.Request, collection: str, name: str) -> web.Response:
        if request.method == "POST":
            return web.json_response(self.put(collection, await request.json()), status=201)
        if name not in self.objects[collection]:
            return _status(404, "NotFound")
        if request.method == "PUT":
            return web.json_response(self.put(collection, await request.json()))
        return web.json_response(self.objects[collection][name])

    def _list(self, request: web.Request, collection: str) -> web.Response:
        limit = int(request.query.get("limit", "0")) or 1_000_000
        token = request.query.get("continue")
        labels, fields = request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")
        if token is None:
            revision, rest = (
                self.revision,
                [o for o in self.objects[collection].values() if selected(o, labels, fields)],
            )
        elif token in self._snapshots:
            revision, rest = self._snapshots.pop(token)
        else:
            return _status(410, "Expired")
        metadata: Obj = {"resourceVersion": str(revision)}
        if len(rest) > limit:
            metadata["continue"] = f"{collection}-{revision}-{len(rest)}"
            self._snapshots[metadata["continue"]] = (revision, rest[limit:])
        body = {"kind": "List", "metadata": metadata, "items": rest[:limit]}
        response = web.json_response(body)
        if self.page_hook is not None:
            self.page_hook()
        return response

    async def _watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"] or 0)
        if since < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            return web.Response(text=json.dumps({"type": "ERROR", "object": gone}) + "\n")
        watcher = Watcher(collection, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        for revision, event in self._history[collection]:
            if revision > since:
                watcher.tell(event)
        self._watchers.append(watcher)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            while (event := await watcher.events.get()) is not None:
                if not self.silent:
                    await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionError:
            pass  # whoever watched has gone
        finally:
            self._watchers.remove(watcher)
        return response

    def _tell(self, collection: str, event: Obj) -> None:
        self._history[collection].append((self.revision, event))
        self.say(collection, event)


def _status(code: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    status = {"kind": "Status", "code": code, "reason": reason, "message": f"{reason} said the fake"}
    return web.json_response(status, status=code, headers=headers)


@asynccontextmanager
async def fake_kube(*collections: str) -> AsyncIterator[FakeKube]:
    """One that runs, with these collections."""
    kube = FakeKube()
    kube.served |= set(collections)
    await kube.start()
    try:
        yield kube
    finally:
        await kube.stop()
