"""What an InferencePool asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from epp.discovery.kubernetes.objects import InferencePool

MAX_TARGET_PORTS: Final = 8  # InferencePool v1: spec.targetPorts has at most 8 items


class PoolWants(msgspec.Struct, frozen=True):
    """Pods that match `selector` (as the API takes it: `app=vllm,tier in (a,b)`) serve on `target_ports`."""

    selector: str
    target_ports: tuple[int, ...]
    app_protocol: str = ""  # `http` or `kubernetes.io/h2c`; empty: it says nothing


class PoolError(Exception):
    """The pool cannot be used as it is; the text says why."""


def wants_of(pool: InferencePool) -> PoolWants | None:
    """None: the pool is being deleted. Raises PoolError; an API server with the official definition stores no such pool."""
    if pool.metadata.deletion_timestamp is not None:
        return None
    spec = pool.spec
    if spec.target_port_number is not None:
        labels: object = spec.selector
        ports = [spec.target_port_number]
    else:
        labels = spec.selector.get("matchLabels")
        ports = [port.number for port in spec.target_ports or ()]
    if not isinstance(labels, dict) or not labels:
        raise PoolError("spec.selector selects nothing: it has no labels")
    if not 1 <= len(ports) <= MAX_TARGET_PORTS:
        raise PoolError(f"spec.targetPorts: expected 1 to {MAX_TARGET_PORTS} ports, got {len(ports)}")
    for port in ports:
        if not 1 <= port <= 65535:
            raise PoolError(f"spec.targetPorts: {port} is not in 1..65535")
    return PoolWants(_selector(labels), tuple(dict.fromkeys(ports)), spec.app_protocol)


def _selector(labels: Mapping[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
