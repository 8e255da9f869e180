"""What following a large pool in Kubernetes costs: `python -m tests.bench.bench_kubernetes`.

An API server of our own, in another process, so that its work is not counted: it has Pods of 5 KB, as vLLM's are, and tells
of changes at a rate. Every tenth change takes a Pod out of service or back. `start` is the time until 5,000 Pods are
endpoints; `cores` the CPU time of this process at 1,000 events a second, by the second; `removal` the longest of forty times
from the writing of a Pod's deletion, among those events, until no pick can choose it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, process_time
from typing import Any, Final

import aiohttp
import uvloop
import yaml
from aiohttp import web

from epp.discovery.kubernetes.discovery import Wanted
from epp.discovery.kubernetes.watcher import Timing
from tests.support.kube_discovery import running
from tests.support.kube_objects import make_pod

PODS: Final = 5000
EVENTS_PER_S: Final = 1000
SECONDS: Final = 5.0
REMOVALS: Final = 40
_PATH: Final = "/api/v1/namespaces/default/pods"
_TICK_S: Final = 0.01
_DEADLINE_S: Final = 60.0


def large_pod(number: int, version: int, *, ready: bool = True) -> dict[str, Any]:
    """With what a real one has beside the few fields that matter: managed fields, volumes, probes, environment."""
    ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    labels = {"app": "vllm", "llm-d.ai/role": "decode", "pod-template-hash": "5d4f8c7b9"}
    pod = make_pod(f"vllm-5d4f8c7b9-{number:05d}", ip, version=str(version), ready=ready, labels=labels)
    pod["metadata"]["managedFields"] = [
        {
            "manager": name,
            "operation": "Update",
            "fieldsV1": {f"f:field-{i}": {".": {}, "f:value": {}} for i in range(30)},
        }
        for name in ("kube-controller-manager", "kubelet")
    ]
    container = {
        "name": "vllm",
        "image": "vllm/vllm-openai:v0.32.0",
        "args": [f"--argument-{i}=value-{i}" for i in range(20)],
        "env": [{"name": f"VARIABLE_{i}", "value": f"value-{i}"} for i in range(20)],
        "volumeMounts": [{"name": f"volume-{i}", "mountPath": f"/mnt/{i}"} for i in range(4)],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
    }
    pod["spec"] |= {"containers": [container], "volumes": [{"name": f"volume-{i}", "emptyDir": {}} for i in range(4)]}
    return pod


class Server:
    """The other side. Everything that it sends is made before it is asked for."""

    def __init__(self, pods: int) -> None:
        self._pods = [json.dumps(large_pod(n, n + 1)) for n in range(pods)]
        self._version = pods + 1
        self._watch: web.StreamResponse | None = None

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_get(_PATH, self._pods_page)
        app.router.add_get("/events", self._send_events)
        app.router.add_get("/delete", self._delete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    async def _pods_page(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            self._watch = web.StreamResponse()
            await self._watch.prepare(request)
            await asyncio.Event().wait()
        first, limit = int(request.query.get("continue", "0")), int(request.query["limit"])
        after = first + limit
        metadata = {"resourceVersion": str(self._version), "continue": str(after) if after < len(self._pods) else ""}
        items = ",".join(self._pods[first:after])
        text = f'{{"kind":"PodList","apiVersion":"v1","metadata":{json.dumps(metadata)},"items":[{items}]}}'
        return web.Response(text=text, content_type="application/json")

    async def _send_events(self, request: web.Request) -> web.Response:
        """At the rate; answers when all are sent."""
        rate, seconds = int(request.query["rate"]), float(request.query["seconds"])
        lines = [self._line(n) for n in range(int(rate * seconds))]
        began_s, sent = monotonic(), 0
        assert self._watch is not None
        while sent < len(lines):
            await asyncio.sleep(_TICK_S)
            due = min(len(lines), int((monotonic() - began_s) * rate))
            await self._watch.write(b"".join(lines[sent:due]))
            sent = due
        return web.Response()

    def _line(self, n: int) -> bytes:
        self._version += 1
        pod = large_pod(n * 7 % (len(self._pods) // 2), self._version, ready=n % 10 > 0)
        return json.dumps({"type": "MODIFIED", "object": pod}).encode() + b"\n"

    async def _delete(self, request: web.Request) -> web.Response:
        """Of the second half, where nothing else happens. Answers when it was written: both clocks are the machine's."""
        self._version += 1
        pod = large_pod(int(request.query["number"]), self._version)
        line = json.dumps({"type": "DELETED", "object": pod}).encode() + b"\n"
        assert self._watch is not None
        now = monotonic()
        await self._watch.write(line)
        return web.json_response({"name": pod["metadata"]["name"], "at_s": now})


class Departures:
    """A datastore listener: when each Pod went."""

    def __init__(self) -> None:
        self.gone_at_s: dict[str, float] = {}

    def endpoint_added(self, endpoint: object) -> None: ...

    def endpoint_relabelled(self, endpoint: object) -> None: ...

    def endpoint_removed(self, endpoint: Any) -> None:
        # The row goes in the same step: whoever picks next does not see it.
        self.gone_at_s[endpoint.pod_name] = monotonic()


async def until(condition: Callable[[], object]) -> None:
    give_up_at_s = monotonic() + _DEADLINE_S
    while not condition():
        if monotonic() > give_up_at_s:
            raise TimeoutError("the discovery does not come along")
        await asyncio.sleep(_TICK_S / 10)


def write_kubeconfig(url: str, folder: Path) -> Path:
    config = {
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": url}}],
        "users": [{"name": "bench", "user": {"token": "t"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


async def figures(url: str, kubeconfig: Path, pods: int) -> dict[str, float]:
    wanted = Wanted("default", selector="app=vllm", target_ports=(8000,))
    began_s, began_cpu_s = monotonic(), process_time()
    async with running(kubeconfig, wanted, Timing()) as run, aiohttp.ClientSession() as http:
        await run.synced.wait()
        assert len(run.datastore) == pods
        found = {"start_s": monotonic() - began_s, "start_cpu_s": process_time() - began_cpu_s}
        departures = Departures()
        run.datastore.add_listener(departures)
        await until(lambda: not run.status("Pod").age_s)  # the watch is open

        query = {"rate": str(EVENTS_PER_S), "seconds": str(SECONDS)}
        began_s, began_cpu_s = monotonic(), process_time()
        await http.get(f"{url}/events", params=query)
        await until(lambda: run.status("Pod").events >= EVENTS_PER_S * SECONDS)
        # The server makes all lines before it sends the first one; while it does, this process sleeps.
        found["cores"] = (process_time() - began_cpu_s) / SECONDS

        sending = asyncio.create_task(http.get(f"{url}/events", params=query))
        found["removal_ms"] = 1e3 * await _slowest_removal(departures, http, url, pods)
        await sending
    return found


async def _slowest_removal(departures: Departures, http: aiohttp.ClientSession, url: str, pods: int) -> float:
    slowest_s = 0.0
    for n in range(REMOVALS):
        await asyncio.sleep(SECONDS / REMOVALS)
        async with http.get(f"{url}/delete", params={"number": str(pods - 1 - n)}) as answer:
            told = await answer.json()
        name: str = told["name"]
        await until(lambda name=name: name in departures.gone_at_s)  # type: ignore[misc]
        slowest_s = max(slowest_s, departures.gone_at_s[name] - told["at_s"])
    return slowest_s


def measure(*, pods: int = PODS) -> dict[str, float]:
    """`start_s`, `start_cpu_s`, `cores` and `removal_ms`."""
    command = [sys.executable, "-m", "tests.bench.bench_kubernetes", "--serve", str(pods)]
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            return runner.run(figures(url, write_kubeconfig(url, Path(folder)), pods))
        finally:
            server.kill()


def main() -> None:
    if "--serve" in sys.argv:
        asyncio.run(Server(int(sys.argv[-1])).serve())
        return
    found = measure()
    print(f"{PODS} Pods of {len(json.dumps(large_pod(0, 1)))} bytes")
    print(f"  until all are endpoints:      {found['start_s']:6.2f} s, {found['start_cpu_s']:.2f} s of CPU")
    print(f"  {EVENTS_PER_S} events a second:         {found['cores']:6.3f} cores")
    print(f"  slowest of {REMOVALS} removals:       {found['removal_ms']:6.1f} ms")


if __name__ == "__main__":
    main()
