"""What following a large pool costs beside a real kube-apiserver and etcd: `python -m tests.bench.bench_kubernetes_real`.

The figures of `bench_kubernetes`, of the same discovery, but all that it hears is a real server's: TLS, pages out of etcd,
events out of the watch cache. Other processes write, as kubelets and controllers do; how fast the server takes that on this
machine is the rate of events, and what each of them costs is told beside it. It takes few, so a thousand a second are made
from what it has written: etcd gets the Pods as they were before those changes, then as they were after, and so on, and the
server tells its watchers of each. A removal is a DELETE, or a status that is not ready; it is timed from the server's answer
to its writer until no pick can choose the Pod, while a slower writer goes on. At last `epp run` is started, and timed until
/readyz says 200; nobody listens where its Pods say that they are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, process_time, sleep
from typing import Any, Final

import uvloop

from epp.demo.processes import Children
from epp.discovery.kubernetes.discovery import Wanted
from epp.discovery.kubernetes.watcher import Timing
from tests.bench.bench_kubernetes import PODS, Departures, large_pod, until
from tests.support.control_plane import ADMIN_TOKEN, OFFICIAL_CRDS, ControlPlane
from tests.support.etcd import Etcd
from tests.support.kube_api import KubeApi
from tests.support.kube_discovery import Running, running
from tests.support.kube_objects import make_pool
from tests.support.stack import eventually, start_epp

STARTS: Final = 5
SECONDS: Final = 15.0
REMOVALS: Final = 200
WANTED: Final = Wanted("default", pool_name="pool")
RATE: Final = 1000  # events a second
_CONNECTIONS: Final = 16
_TICK_S: Final = 0.01
_FEW: Final = 2  # a server that is asked for all that it can do takes long to tell of it

# --- the process that writes ---------------------------------------------------------------------------------------------


def fill(api: KubeApi, pods: int) -> None:
    """Pods that run and are ready, as a kubelet would have told."""

    def add(number: int) -> None:
        pod = large_pod(number, 1)
        status, metadata = pod.pop("status"), pod["metadata"]
        for made_by_the_server in ("managedFields", "resourceVersion", "uid"):
            del metadata[made_by_the_server]
        api.create(pod)
        _write_status(api, metadata["name"], status | {"podIP": f"127.20.{number >> 8}.{number & 255}"})

    _all_at_once(add, range(pods))


def change(api: KubeApi, pods: int, *, connections: int = _CONNECTIONS) -> None:
    """Status after status of the first half, as fast as the server takes them. Tells how many there were, and the rate."""
    give_up_at_s = monotonic() + SECONDS

    def write(connection: int) -> int:
        written = 0
        while monotonic() < give_up_at_s:
            n = written * connections + connection
            condition = {"type": "Ready", "status": str(n % 10 > 0), "message": f"probe {n}"}
            _write_status(api, _name(n * 7 % (pods // 2)), {"conditions": [condition]})
            written += 1
        return written

    began_s = monotonic()
    written = sum(_all_at_once(write, range(connections)))
    _tell({"events": written, "rate": written / (monotonic() - began_s)})


def trickle(api: KubeApi, pods: int) -> None:
    """The same, more slowly."""
    change(api, pods, connections=_FEW)


def remove(api: KubeApi, pods: int) -> None:
    """Pods of the second half, one by one, by turns in either way. Tells of each when it was asked for and answered."""
    for number in range(pods - 1, pods - 1 - REMOVALS, -1):
        sleep(SECONDS / REMOVALS / 2 * random.uniform(0.5, 1))
        name, sent_s = _name(number), monotonic()
        if number % 2:
            api.delete("v1", "Pod", name, namespace="default")
        else:
            _write_status(api, name, {"conditions": [{"type": "Ready", "status": "False"}]})
        _tell({"name": name, "sent_s": sent_s, "answered_s": monotonic()})


async def swing(socket: Path, stored: list[tuple[str, str, str]]) -> None:
    """Values of these keys become what they were, then what they are, and so on. Tells how many did, and the rate."""
    puts = itertools.cycle([(key, before) for key, before, _ in stored] + [(key, after) for key, _, after in stored])
    async with Etcd(socket) as etcd:
        began_s, written = monotonic(), 0
        while (elapsed_s := monotonic() - began_s) < SECONDS:
            due = min(int(elapsed_s * RATE) - written, RATE // 20)
            await asyncio.gather(*(etcd.put(*put) for put in itertools.islice(puts, due)))
            written += due
            await asyncio.sleep(_TICK_S)
        _tell({"events": written, "rate": written / (monotonic() - began_s)})


WRITERS: Final[dict[str, Callable[[KubeApi, int], None]]] = {
    "fill": fill,
    "change": change,
    "trickle": trickle,
    "remove": remove,
}


def _write_status(api: KubeApi, name: str, status: dict[str, Any]) -> None:
    api.patch("v1", "Pod", name, {"status": status}, namespace="default", subresource="status")


def _name(number: int) -> str:
    name: str = large_pod(number, 1)["metadata"]["name"]
    return name


def _all_at_once(work: Callable[[int], Any], numbers: Iterable[int]) -> list[Any]:
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        return list(threads.map(work, numbers))


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


# --- the process that follows, and is measured ---------------------------------------------------------------------------


async def writer(plane: ControlPlane, job: str, pods: int) -> list[dict[str, Any]]:
    """What it told, once it has ended."""
    return await _process(job, plane.host, plane.port, plane.folder / "ca.crt", pods)


async def _process(job: str, *arguments: object) -> list[dict[str, Any]]:
    module = "tests.bench.bench_kubernetes_real"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--write", job, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"the writer of {job} ended with status {process.returncode}")
    return [json.loads(line) for line in told.splitlines()]


async def figures(plane: ControlPlane, pods: int) -> dict[str, Any]:
    began_s = monotonic()
    await writer(plane, "fill", pods)
    found: dict[str, Any] = {"fill_s": monotonic() - began_s, "starts": []}
    found["pod_bytes"] = len(json.dumps(plane.api.get("v1", "Pod", _name(0), namespace="default")))
    for _ in range(STARTS):
        began_s, began_cpu_s = monotonic(), process_time()
        async with running(plane.kubeconfig, WANTED, Timing()) as run:
            await run.synced.wait()
            assert len(run.datastore) == pods
            found["starts"].append((monotonic() - began_s, process_time() - began_cpu_s))

    stored = await _stored(plane)
    async with running(plane.kubeconfig, WANTED, Timing()) as run:
        await run.synced.wait()
        departures = Departures()
        run.datastore.add_listener(departures)
        await until(lambda: not run.status("Pod").age_s)  # the watch is open

        found["changes"] = await _cost(run, writer(plane, "change", pods))
        swings = [(key, stored[key], now) for key, now in (await _stored(plane)).items() if now != stored[key]]
        (file := plane.folder / "swings.json").write_text(json.dumps(swings))
        found["swings"] = await _cost(run, _process("swing", plane.etcd_socket, file))

        changing = asyncio.create_task(writer(plane, "trickle", pods))
        removals = await writer(plane, "remove", pods)
        (told,) = await changing
        await until(lambda: all(one["name"] in departures.gone_at_s for one in removals))
        found["rate_beside_removals"] = told["rate"]
        for since in ("sent_s", "answered_s"):
            found[f"after_{since}"] = [departures.gone_at_s[one["name"]] - one[since] for one in removals]
        _check(run, plane, pods)
    return found


async def _stored(plane: ControlPlane) -> dict[str, str]:
    async with Etcd(plane.etcd_socket) as etcd:
        return await etcd.under("/registry/pods/")


async def _cost(run: Running, writing: Awaitable[list[dict[str, Any]]]) -> dict[str, float]:
    """Of the events that a writer makes: `rate` a second, CPU of one in `event_us`, and `cores` in all, from first to last."""
    heard, began_cpu_s, began_s = run.status("Pod").events, process_time(), monotonic()
    (told,) = await writing
    await until(lambda: run.status("Pod").events >= heard + told["events"])
    cpu_s = process_time() - began_cpu_s
    return {"rate": told["rate"], "event_us": 1e6 * cpu_s / told["events"], "cores": cpu_s / (monotonic() - began_s)}


async def ready_s(plane: ControlPlane, folder: Path) -> float:
    """Of a whole picker, the start of its process included."""
    flags = ("--pool-name=pool", "--pool-namespace=default", f"--kubeconfig={plane.kubeconfig}")
    began_s = monotonic()
    async with Children(folder) as children:
        epp = await start_epp(children, *flags, "--metrics-endpoint-auth=false")
        await eventually(lambda: epp.page("/readyz"), lambda answer: answer[0] == 200)
        return monotonic() - began_s


def _check(run: Running, plane: ControlPlane, pods: int) -> None:
    """At the end the endpoints are those that the server has."""
    ready = {
        pod["metadata"]["name"]
        for pod in plane.api.list("v1", "Pod", namespace="default")
        if "deletionTimestamp" not in pod["metadata"] and pod["status"]["conditions"][0]["status"] == "True"
    }
    assert {endpoint.pod_name for endpoint in run.datastore.endpoints} == ready


def measure(*, pods: int = PODS) -> dict[str, Any]:
    with (
        TemporaryDirectory() as folder,
        ControlPlane() as plane,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        plane.install_crds(*OFFICIAL_CRDS)
        plane.api.create(make_pool())
        found = runner.run(figures(plane, pods))
        return found | {"ready_s": runner.run(ready_s(plane, Path(folder)))}


def main() -> None:
    if "--write" in sys.argv:
        job, *arguments = sys.argv[2:]
        if job == "swing":
            socket, file = map(Path, arguments)
            asyncio.run(swing(socket, json.loads(file.read_text())))
            return
        host, port, ca, pods = arguments
        WRITERS[job](KubeApi(host, int(port), ca=Path(ca).read_text(), token=ADMIN_TOKEN), int(pods))
        return
    found = measure()
    starts = ", ".join(f"{wall_s:.2f} ({cpu_s:.2f})" for wall_s, cpu_s in found["starts"])
    print(f"{PODS} Pods of {found['pod_bytes']} bytes, made in {found['fill_s']:.0f} s")
    print(f"  until all are endpoints:   {starts} s (of CPU)")
    print(f"  epp run is ready:          {found['ready_s']:.2f} s")
    for writes in ("changes", "swings"):
        of = found[writes]
        print(
            f"  an event, at {of['rate']:4.0f} a second: {of['event_us']:.0f} us of CPU, {of['cores']:.3f} cores in all"
        )
    print(f"  {REMOVALS} removals, beside {found['rate_beside_removals']:.0f} events a second:")
    for what, key in (("answer", "after_answered_s"), ("request", "after_sent_s")):
        percentiles_ms = [1e3 * s for s in statistics.quantiles(found[key], n=100)]
        print(f"    from the {what}:  p50 {percentiles_ms[49]:.1f} ms, p99 {percentiles_ms[98]:.1f} ms")


if __name__ == "__main__":
    main()
