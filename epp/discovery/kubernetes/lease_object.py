"""The Lease object of an election on an API server, and what it is called."""

from __future__ import annotations

import re
import socket
import uuid
from typing import Final

from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.election import Lease
from epp.discovery.kubernetes.elector import LeaseConflict
from epp.discovery.kubernetes.errors import Conflict, NotFound
from epp.discovery.kubernetes.resources import leases

# What a Deployment appends to its name for its Pods.
_OF_DEPLOYMENT: Final = re.compile(r"(.+)-[a-z0-9]+-[a-z0-9]+")


def lease_name(*, namespace: str, pool_name: str, pod_name: str) -> str:
    """As llm-d-router's EPP calls it, so that both can be replicas of one service while one replaces the other.

    Where there is no pool the Deployment's name stands for it.
    """
    deployment = _OF_DEPLOYMENT.fullmatch(pod_name)
    pool = pool_name or (deployment[1] if deployment is not None else pod_name) or "epp"
    return f"epp-{namespace}-{pool}.llm-d.ai"


def make_identity(pod_name: str) -> str:
    """Another one for each process: what a predecessor of the same name held is not ours."""
    return f"{pod_name or socket.gethostname()}_{uuid.uuid4()}"


class LeaseObject:
    """Implements `epp.discovery.kubernetes.elector.Leases`."""

    def __init__(self, api: Api, *, namespace: str, name: str) -> None:
        self._api = api
        self._resource = leases(namespace)
        self._namespace = namespace
        self._name = name

    async def read(self) -> Lease | None:
        try:
            return Lease.from_object(await self._api.get(self._resource, self._name))
        except NotFound:
            return None

    async def write(self, lease: Lease) -> Lease:
        body = lease.to_object(namespace=self._namespace, name=self._name)
        try:
            if not lease.version:
                return Lease.from_object(await self._api.create(self._resource, body))
            return Lease.from_object(await self._api.replace(self._resource, self._name, body))
        except (Conflict, NotFound) as error:
            raise LeaseConflict(str(error)) from error
