"""What a gRPC health service says."""

from __future__ import annotations

import grpc

from epp.server.gen import health_pb2 as health


async def check(address: str, service: str) -> str:
    """The name of the answer, such as SERVING, or of the gRPC error, such as UNAVAILABLE."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )
        try:
            answer = await call(health.HealthCheckRequest(service=service))
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return str(health.HealthCheckResponse.ServingStatus.Name(answer.status))
