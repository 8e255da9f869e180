"""What a gRPC health check is told. No I/O: the shells answer with what is decided here; `Watch` is UNIMPLEMENTED there.

Names of services are those that the Go EPP knows. Unlike there, `liveness` does not depend on anything: a pool that is
deleted, or not found yet, is no reason to restart the process.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

EXT_PROC_SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"
LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
CHART_SERVICE: Final = "inference-extension"  # what the upstream charts' probes ask for

_READINESS: Final = frozenset(("", READINESS, EXT_PROC_SERVICE, CHART_SERVICE))


class Serving(enum.IntEnum):
    """HealthCheckResponse.ServingStatus (health.proto)."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class HealthState(msgspec.Struct):
    """What is known of the process. `hindrances` are reasons of others why requests should not come.

    They and `leads` are asked at every check, because a leader whose time is over may not get to say so. `leads` is None
    where there is no election.
    """

    synced: bool = False
    leads: Callable[[], bool] | None = None
    draining: bool = False
    hindrances: Callable[[], Iterable[str]] = tuple

    def problems(self) -> list[str]:
        """Why requests should not come here; empty when they may."""
        found = []
        if not self.synced:
            found.append("endpoints: not loaded yet")
        if self.leads is not None and not self.leads():
            found.append("leader election: another replica is the leader")
        if self.draining:
            found.append("shutdown: draining")
        found.extend(self.hindrances())
        return found

    @property
    def ready(self) -> bool:
        return not self.problems()

    def check(self, service: str) -> Serving:
        """The answer to Check. With leader election only the services of `list`, "" and the chart's are known."""
        if service == LIVENESS:
            return Serving.SERVING
        if service not in _READINESS and self.leads is not None:
            return Serving.SERVICE_UNKNOWN
        return Serving.SERVING if self.ready else Serving.NOT_SERVING

    def list(self) -> dict[str, Serving]:
        """The answer to List."""
        services = (EXT_PROC_SERVICE, LIVENESS, READINESS) if self.leads is not None else (EXT_PROC_SERVICE,)
        return {service: self.check(service) for service in services}
