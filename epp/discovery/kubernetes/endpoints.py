"""Which endpoints the Pods of a pool make: from objects to a change of the datastore. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

import msgspec

from epp.data.endpoint_spec import EndpointSpec, Key
from epp.discovery.kubernetes.objects import ObjectKey, Pod

# A list of ports, separated by commas: of a Pod with several data-parallel ranks, those that serve. The first one counts.
ACTIVE_PORTS: Final = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")
_ENDED: Final = ("Succeeded", "Failed")


class Delta(msgspec.Struct):
    """What to take out of the datastore first, and what to bring up to date then."""

    gone: list[Key] = msgspec.field(default_factory=list)
    wanted: list[EndpointSpec] = msgspec.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.gone or self.wanted)


def is_ready(pod: Pod) -> bool:
    """It may be sent requests: it is Ready, has not ended and is not being deleted."""
    if pod.metadata.deletion_timestamp is not None or pod.status.phase in _ENDED:
        return False
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())


def endpoints_of(pod: Pod, target_ports: tuple[int, ...]) -> tuple[EndpointSpec, ...]:
    """One endpoint for each port that the Pod serves: `<pod>-rank-<place of the port>`. None when it is not ready."""
    if not is_ready(pod) or not _is_address(pod.status.pod_ip):
        return ()
    metadata, status = pod.metadata, pod.status
    active = _active_ports(metadata.annotations)
    return tuple(
        EndpointSpec(
            f"{metadata.name}-rank-{rank}",
            status.pod_ip,
            port,
            namespace=metadata.namespace,
            labels=metadata.labels or {},
            pod_name=metadata.name,
            node_address=status.host_ip if _is_address(status.host_ip) else "",
        )
        for rank, port in enumerate(target_ports)
        if active is None or port in active
    )


class Roster:
    """The endpoints of the Pods that are known now. Every change gives the Delta that brings a datastore along."""

    def __init__(self, target_ports: tuple[int, ...]) -> None:
        self.target_ports = target_ports
        self._made: dict[ObjectKey, tuple[str, tuple[EndpointSpec, ...]]] = {}  # with the Pod's uid

    def use_ports(self, target_ports: tuple[int, ...], pods: Mapping[ObjectKey, Pod]) -> Delta:
        """The pool has other ports."""
        self.target_ports = target_ports
        return self.apply(pods)

    def apply(self, changes: Mapping[ObjectKey, Pod | None]) -> Delta:
        """Pods have come, changed or gone (None)."""
        delta = Delta()
        for key, pod in changes.items():
            specs = endpoints_of(pod, self.target_ports) if pod is not None else ()
            uid = pod.metadata.uid if pod is not None else ""
            known_uid, known = self._made.get(key, ("", ()))
            if specs == known and uid == known_uid:
                continue
            # Another Pod of the same name is another server, even at the same address: nothing is known of it.
            kept = {spec.key for spec in specs} if uid == known_uid else ()
            delta.gone += [spec.key for spec in known if spec.key not in kept]
            delta.wanted += [spec for spec in specs if spec not in known] if kept else specs
            if specs:
                self._made[key] = uid, specs
            else:
                self._made.pop(key, None)
        return delta


def _active_ports(annotations: Mapping[str, str] | None) -> frozenset[int] | None:
    """None: all of them. What is no port is left out, so that nothing may be left."""
    if not annotations:
        return None
    text = next((annotations[name] for name in ACTIVE_PORTS if name in annotations), None)
    if text is None:
        return None
    ports = (part.strip() for part in text.split(","))
    return frozenset(int(port) for port in ports if port.isascii() and port.isdigit() and len(port) <= 5)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
