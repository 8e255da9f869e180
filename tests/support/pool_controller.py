"""What a gateway's controller does for one InferencePool: tells Envoy which Pods it has, and where its picker can be asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from tests.support.cluster import Cluster, is_ready
from tests.support.gateway import Gateway, Pool
from tests.support.kube_api import ApiError, Object

POOL_VERSION: Final = "inference.networking.k8s.io/v1"
_LOOK_AGAIN_S: Final = 0.05


@contextlib.asynccontextmanager
async def follow_pool(
    cluster: Cluster, gateway: Gateway, namespace: str, pool: Pool, name: str = ""
) -> AsyncIterator[None]:
    """Until the block ends; it begins when the picker can be asked and the pool has a Pod. `name`: that of the object."""
    begun = asyncio.Event()
    task = asyncio.create_task(_follow(cluster, gateway, namespace, pool, name or pool.name, begun))
    try:
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait([task, waiting], timeout=90, return_when=asyncio.FIRST_COMPLETED)
        if not begun.is_set():
            waiting.cancel()
            if task.done():
                await task
            raise AssertionError(f"the pool {pool.name} has no picker or no Pod\n{cluster.describe()}")
        yield
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(
    cluster: Cluster, gateway: Gateway, namespace: str, pool: Pool, name: str, begun: asyncio.Event
) -> None:
    told: tuple[list[str], list[str]] = [], []
    while True:
        seen = await asyncio.to_thread(_addresses, cluster, namespace, name)
        for before, addresses, tell in zip(told, seen, (gateway.set_pool, gateway.set_picker), strict=True):
            if addresses != before:
                await tell(pool, addresses)
        told = seen
        if all(seen):
            begun.set()
        await asyncio.sleep(_LOOK_AGAIN_S)


def _addresses(cluster: Cluster, namespace: str, name: str) -> tuple[list[str], list[str]]:
    """Those of the pool's Pods, and those behind the Service of its picker that are ready."""
    try:
        spec = cluster.api.get(POOL_VERSION, "InferencePool", name, namespace=namespace)["spec"]
    except ApiError:
        return [], []
    selector = ",".join(f"{key}={value}" for key, value in spec["selector"]["matchLabels"].items())
    pods = [p for p in cluster.pods(namespace, selector) if is_ready(p)]
    ports = [port["number"] for port in spec["targetPorts"]]
    picker = spec["endpointPickerRef"]
    endpoints = sorted(f"{pod['status']['podIP']}:{port}" for pod in pods for port in ports)
    return endpoints, service_addresses(cluster, namespace, picker["name"], picker["port"]["number"])


def service_addresses(cluster: Cluster, namespace: str, service: str, port: int) -> list[str]:
    """`ip:port` of everything that can be asked behind a port of a Service."""
    found = cluster.api.find("v1", "Service", service, namespace=namespace)
    if found is None:
        return []
    port_name = next(p.get("name", "") for p in found["spec"]["ports"] if p["port"] == port)
    slices = cluster.api.list(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        namespace=namespace,
        labelSelector=f"kubernetes.io/service-name={service}",
    )
    ready = [address for one in slices for address in _addresses_that_are("ready", one, port_name)]
    # Where nothing else is left, what is on its way out but still answers: as kube-proxy has it (KEP-1669).
    serving = [address for one in slices for address in _addresses_that_are("serving", one, port_name)]
    return sorted(ready or serving)


def _addresses_that_are(condition: str, endpoints: Object, port_name: str) -> list[str]:
    numbers = [p["port"] for p in endpoints.get("ports") or () if p.get("name", "") == port_name]
    found = [e for e in endpoints.get("endpoints") or () if e.get("conditions", {}).get(condition)]
    return [f"{address}:{number}" for number in numbers for e in found for address in e["addresses"]]
