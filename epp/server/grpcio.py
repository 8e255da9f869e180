"""The shell over grpcio's asyncio server. Every RPC is one task; see `session` for what happens in it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from epp.api import host_port
from epp.server.gen import health_pb2
from epp.server.health import EXT_PROC_SERVICE, HEALTH_SERVICE, HealthState
from epp.server.health_replies import check_reply, list_reply
from epp.server.session import ExtProc, MalformedMessage, Session


class ExtProcService:
    """`Process` for every HTTP request that Envoy asks about."""

    def __init__(self, service: ExtProc) -> None:
        self._service = service

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            EXT_PROC_SERVICE, {"Process": grpc.stream_stream_rpc_method_handler(self._process)}
        )

    async def _process(self, _: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        woken = asyncio.Event()
        session = self._service.session(woken.set)
        code = "Canceled"
        try:
            await _converse(session, context, woken)
            code = "OK"
        except MalformedMessage as error:
            code = "InvalidArgument"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"malformed ProcessingRequest: {error}")
        finally:
            session.close(code)


async def _converse(session: Session, context: grpc.aio.ServicerContext[bytes, bytes], woken: asyncio.Event) -> None:
    reading: asyncio.Future[Any] | None = None
    try:
        while not session.finished:
            if session.waiting:
                if reading is None:
                    reading = asyncio.ensure_future(context.read())
                waking = asyncio.ensure_future(woken.wait())
                await asyncio.wait({reading, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                woken.clear()
                if not reading.done():
                    await _send(session, context)
                    continue
            data: Any = await (reading or context.read())
            reading = None
            if data is grpc.aio.EOF:
                session.half_closed()
            else:
                session.receive(data)
            await _send(session, context)
    finally:
        if reading is not None:
            reading.cancel()


async def _send(session: Session, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    # A waiting decision may add replies during a write.
    while replies := session.take():
        for reply in replies:
            await context.write(reply)


class HealthService:
    """grpc.health.v1 for what `state` says. `Watch` is not implemented, as in the Go EPP."""

    def __init__(self, state: HealthState) -> None:
        self._state = state

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self._on_check,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                ),
                "List": grpc.unary_unary_rpc_method_handler(
                    self._on_list,
                    request_deserializer=health_pb2.HealthListRequest.FromString,
                    response_serializer=health_pb2.HealthListResponse.SerializeToString,
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(self._on_watch),
            },
        )

    async def _on_check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        return check_reply(self._state, request)

    async def _on_list(
        self, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthListResponse:
        return list_reply(self._state)

    async def _on_watch(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Watch is not implemented")


class GrpcServer:
    """Serves ext_proc (where `service` is given) and gRPC health on one port. `port` is known after `start`.

    `compress`: replies are gzip'd for clients that accept it.
    """

    def __init__(
        self,
        health: HealthState,
        service: ExtProc | None = None,
        *,
        max_receive_bytes: int | None = None,
        max_send_bytes: int | None = None,
        compress: bool = False,
    ) -> None:
        self._compression = grpc.Compression.Gzip if compress else None
        self._handlers = [HealthService(health).handler()]
        if service is not None:
            self._handlers.append(ExtProcService(service).handler())
        self._options = [
            ("grpc.max_receive_message_length", max_receive_bytes or -1),
            ("grpc.max_send_message_length", max_send_bytes or -1),
            ("grpc.max_concurrent_streams", 1_000_000),  # Envoy sends all requests over few connections
            # Beyond 1000 calls that no task has taken yet, gRPC core cancels some at random.
            ("grpc.server.max_pending_requests", 1_000_000),
            ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not load balancing
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
            ("grpc.http2.max_ping_strikes", 0),
        ]
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int, *, tls: grpc.ServerCredentials | None = None) -> None:
        """Raises RuntimeError when the port cannot be bound."""
        self._server = grpc.aio.server(options=self._options, compression=self._compression)
        self._server.add_generic_rpc_handlers(tuple(self._handlers))
        address = host_port(host, port)
        if tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, tls)
        await self._server.start()

    async def stop(self, *, grace_s: float) -> None:
        """Refuse new RPCs, let those in progress end for `grace_s` seconds, then cancel them."""
        if self._server is not None:
            await self._server.stop(grace_s)
