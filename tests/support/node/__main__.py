"""The test node: what a kubelet does for the Pods that are bound to it. `python -m tests.support.node SETTINGS.json`.

A process of its own, so that tests can load it and be killed without it: everything it started ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.support.kube_api import ApiError, KubeApi
from tests.support.node import dns
from tests.support.node.pods import Pod
from tests.support.node.settings import Settings

Object = dict[str, Any]

_LOOK_AGAIN_S: Final = 0.1
_NUMBERS: Final = 250  # addresses of Pods, after the gateway's


class Node:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api = KubeApi(settings.api_host, settings.api_port, ca=settings.api_ca, token=settings.api_token)
        self._pods: dict[str, Pod] = {}
        self._numbers = itertools.cycle(range(2, 2 + _NUMBERS))

    async def run(self) -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: dns.Server(self._ready_addresses), local_addr=(self._settings.gateway, dns.PORT)
        )
        await asyncio.to_thread(self._register)
        selector = f"spec.nodeName={self._settings.node}"
        while True:
            try:
                found = await asyncio.to_thread(self._api.list, "v1", "Pod", fieldSelector=selector)
            except (OSError, ApiError):  # the server is away, or its database is; what runs goes on
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            self._follow({pod["metadata"]["uid"]: pod for pod in found})
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _follow(self, found: dict[str, Object]) -> None:
        for uid, pod in found.items():
            if uid in self._pods:
                self._pods[uid].update(pod)
            else:
                self._pods[uid] = Pod(pod, address=self._free_address(), api=self._api, settings=self._settings)
                self._pods[uid].start()
                self._pods[uid].update(pod)
        for uid in self._pods.keys() - found.keys():
            self._pods[uid].vanish()
            if self._pods[uid].done.is_set():
                del self._pods[uid]

    def _ready_addresses(self, service: str, namespace: str) -> list[str] | None:
        if self._api.find("v1", "Service", service, namespace=namespace) is None:
            return None
        labels = f"kubernetes.io/service-name={service}"
        slices = self._api.list("discovery.k8s.io/v1", "EndpointSlice", namespace=namespace, labelSelector=labels)
        endpoints = (e for one in slices for e in one.get("endpoints") or () if e.get("conditions", {}).get("ready"))
        return sorted({address for endpoint in endpoints for address in endpoint["addresses"]})

    def _free_address(self) -> str:
        """The one that has been free for longest."""
        taken = {pod.address for pod in self._pods.values()}
        network = self._settings.gateway.rpartition(".")[0]
        return next(a for number in self._numbers if (a := f"{network}.{number}") not in taken)

    def _register(self) -> None:
        room = {"cpu": "1000", "memory": "1000Gi", "pods": str(_NUMBERS), "ephemeral-storage": "1000Gi"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self._settings.node, "labels": {"kubernetes.io/hostname": self._settings.node}},
        }
        status = {
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": self._settings.gateway}],
        }
        self._api.create(node)
        self._api.patch("v1", "Node", self._settings.node, {"status": status}, subresource="status")


if __name__ == "__main__":
    asyncio.run(Node(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)).run())
