"""What `HealthState` says, as messages of grpc.health.v1: the same for both shells."""

from __future__ import annotations

from typing import cast

from epp.server.gen import health_pb2
from epp.server.health import HealthState, Serving


def check_reply(state: HealthState, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
    """The reply to `Check`."""
    return _message(state.check(request.service))


def list_reply(state: HealthState) -> health_pb2.HealthListResponse:
    """The reply to `List`."""
    reply = health_pb2.HealthListResponse()
    for name, serving in state.list().items():
        reply.statuses[name].CopyFrom(_message(serving))
    return reply


def _message(serving: Serving) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse(status=cast(health_pb2.HealthCheckResponse.ServingStatus, serving.value))
