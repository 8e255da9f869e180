"""An OTLP collector: takes spans over gRPC and HTTP as the specification says, and keeps them."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True)
class Span:
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    status: str
    message: str
    began_ns: int
    ended_ns: int
    scope: str
    resource: dict[str, Any]
    trace_state: str


@dataclass
class Collector:
    """`spans` in the order in which they came. `grpc` and `http` are URLs."""

    grpc: str = ""
    http: str = ""
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def take(self, request: service.ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            resource = _dict(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_span(span, of_scope.scope.name, resource) for span in of_scope.spans]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()

    async def export(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        collector.headers.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        collector.take(service.ExportTraceServiceRequest.FromString(data))
        return service.ExportTraceServiceResponse().SerializeToString()

    async def post(request: web.Request) -> web.Response:
        collector.headers.append(dict(request.headers))
        data = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        collector.take(service.ExportTraceServiceRequest.FromString(data))
        return web.Response(
            body=service.ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(export) if details.method == _EXPORT else None

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    app = web.Application()
    app.router.add_post("/v1/traces", post)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.grpc = f"http://127.0.0.1:{port}"
    collector.http = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await server.stop(None)
        await runner.cleanup()


def _span(span: trace_pb2.Span, scope: str, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_dict(span.attributes),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        message=span.status.message,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        scope=scope,
        resource=resource,
        trace_state=span.trace_state,
    )


def _dict(attributes: Any) -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(v) for v in value.array_value.values]
    return getattr(value, kind) if kind else None
