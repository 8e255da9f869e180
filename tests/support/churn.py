"""Pods of a pool replaced one by one while requests come: an API server, an `epp run` that follows it, and a real Envoy.

The Pods are objects whose addresses are simulated servers in this process. One is replaced when the one before it is served,
as a rolling update does; a server that was replaced answers what it has, and ends some replacements later.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec

from epp.demo.envoy import start_envoy
from epp.demo.processes import Children
from epp.envoy.bootstrap import bootstrap
from epp.envoy.options import BootstrapOptions
from epp.sim import SimConfig, SimServer, StepCost
from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.ports import free_port
from tests.support.processes import open_files, status
from tests.support.stack import Epp, eventually, start_epp
from tests.support.steady_load import Failure, SteadyLoad, steady_load

AT_A_TIME: Final = 8  # Pods that are ready
LINGER: Final = 3  # replacements for which a server goes on after its Pod is gone
DEADLINE_S: Final = 60.0
MODEL: Final = "sim-model"
LABELS: Final = {"app": "churn"}


class Process(msgspec.Struct):
    """What an EPP holds."""

    memory_mib: float
    sockets: int
    threads: int
    series: int
    """On its metrics page."""


class Report(msgspec.Struct):
    sent: int
    failures: list[Failure]
    wanted: list[str]
    """Addresses of the Pods at the end."""
    endpoints: list[str]
    """Those that the EPP then has."""
    in_flight: float
    early: Process
    """After as many replacements as there are Pods at a time."""
    late: Process


async def churn(plane: ControlPlane, namespace: str, folder: Path, *, count: int, rate: float) -> Report:
    """Replace `count` Pods under `rate` requests a second."""
    plane.install_crds(*OFFICIAL_CRDS)
    addresses = _Addresses()
    running: deque[SimServer] = deque()
    ending: deque[tuple[SimServer, int]] = deque()
    try:
        for number in range(AT_A_TIME):
            running.append(await _add(plane, namespace, addresses, number))
        plane.api.apply(_pool(addresses.port), namespace=namespace)
        async with Children(folder) as children:
            flags = ("--pool-name=churn", f"--pool-namespace={namespace}", f"--kubeconfig={plane.kubeconfig}")
            epp = await start_epp(children, *flags, "--metrics-endpoint-auth=false")
            await eventually(epp.endpoints, lambda found: len(found) == AT_A_TIME, deadline_s=DEADLINE_S)
            envoy = await start_envoy(children, bootstrap(BootstrapOptions(epp=epp.grpc)), folder)
            early = None
            async with steady_load(envoy.url, rate=rate, model=MODEL) as load:
                for number in range(AT_A_TIME, AT_A_TIME + count):
                    await _replace(plane, namespace, addresses, epp, load, running, ending, number)
                    if number == 2 * AT_A_TIME:
                        early = await _process(epp)
            await epp.idle()
            return Report(
                load.sent,
                load.failures,
                sorted(server.address for server in running),
                sorted(e["address"] for e in await epp.endpoints()),
                await epp.in_flight(),
                early or await _process(epp),
                await _process(epp),
            )
    finally:
        for server in (*running, *(server for server, _ in ending)):
            await server.stop()


class _Addresses:
    """Loopback addresses that nobody has had, all with one port."""

    def __init__(self) -> None:
        self._network = f"127.{128 + secrets.randbelow(64)}"
        self.port = free_port()

    def next(self, number: int) -> tuple[str, int]:
        return f"{self._network}.{number // 250}.{1 + number % 250}", self.port


async def _add(plane: ControlPlane, namespace: str, addresses: _Addresses, number: int) -> SimServer:
    """A server, and a Pod that says that it is ready there."""
    host, port = addresses.next(number)
    server = SimServer(SimConfig(name=f"pod-{number}", host=host, port=port, model=MODEL, cost=StepCost(speed=50)))
    await server.start()
    await asyncio.to_thread(plane.api.create_pod, server.name, namespace=namespace, ip=host, labels=LABELS)
    return server


async def _replace(
    plane: ControlPlane,
    namespace: str,
    addresses: _Addresses,
    epp: Epp,
    load: SteadyLoad,
    running: deque[SimServer],
    ending: deque[tuple[SimServer, int]],
    number: int,
) -> None:
    """One comes, and the oldest goes; returns when the EPP knows both.

    `ending` holds servers with the first request that cannot have gone there: those before it are waited for.
    """
    running.append(await _add(plane, namespace, addresses, number))
    oldest = running[0]
    await asyncio.to_thread(plane.api.delete, "v1", "Pod", oldest.name, namespace=namespace, grace_s=0)
    wanted = {server.address for server in running if server is not oldest}
    await eventually(lambda: _known(epp), lambda known: known == wanted, deadline_s=DEADLINE_S)
    ending.append((running.popleft(), load.sent))
    if len(ending) > LINGER:
        gone, first_without_it = ending.popleft()
        await load.until_ended(first_without_it)
        await gone.stop()


async def _known(epp: Epp) -> set[str]:
    return {endpoint["address"] for endpoint in await epp.endpoints()}


async def _process(epp: Epp) -> Process:
    _, page = await epp.page("/metrics")
    fields = status(epp.child.pid)
    return Process(
        memory_mib=int(fields["VmRSS"].split()[0]) / 1024,
        sockets=sum(file.startswith("socket:") for file in open_files(epp.child.pid)),
        threads=int(fields["Threads"]),
        series=sum(not line.startswith("#") for line in page.splitlines()),
    )


def _pool(port: int) -> dict[str, Any]:
    spec = {
        "selector": {"matchLabels": LABELS},
        "targetPorts": [{"number": port}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
    }
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "churn"},
        "spec": spec,
    }
