"""Makes what records and exports traces, by the flag and OpenTelemetry's environment variables; nothing where they are off."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from epp import version
from epp.observability.logs import INFO, log_event
from epp.observability.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

_log: Final = logging.getLogger("epp")
_FLUSH_S: Final = 5.0
SERVICE_NAME: Final = "llm-d-epp"  # what dashboards for the Go EPP filter by
SAMPLER: Final = "parentbased_traceidratio"
RATIO: Final = "0.1"
HOW_TO_GET: Final = "pip install 'llm-epp[otel]'"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_wanted(flag: bool | None, environ: Mapping[str, str]) -> bool:
    """Whether traces shall be recorded. `flag` None: it was not given, and the environment says where traces go, or not."""
    if flag is False or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    if exporter == "none":
        return False
    return bool(flag or exporter or any(environ.get(name) for name in _ENDPOINTS))


class Traces:
    """The recording, while it lasts."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracing = Tracing(provider.get_tracer("llm-epp", version()))

    async def close(self) -> None:
        """Send what is left, as far as the collector takes it in a few seconds."""
        # A thread of its own that nobody waits for at the end: an exporter may try for longer.
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def work() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, name="traces", daemon=True).start()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await done.wait()
        except TimeoutError:
            _log.warning("some traces were not sent: the collector does not answer")


def make_traces(flag: bool | None, environ: Mapping[str, str]) -> Traces | None:
    """None: traces are not wanted; or they cannot be recorded, and the log says why."""
    if not is_wanted(flag, environ):
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter, where = _exporter(environ)
        provider = TracerProvider(
            sampler=_sampler(environ), resource=Resource.create(_resource(environ)), shutdown_on_exit=False
        )
        traces = Traces(provider)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        _log.warning("traces are asked for, but OpenTelemetry is not installed: %s", HOW_TO_GET)
        return None
    # OpenTelemetry reads the environment, too, and raises what it likes: no reason not to serve.
    except Exception as error:
        _log.warning("traces are not recorded: %s", str(error) or type(error).__name__)
        return None
    log_event(_log, INFO, "tracing", exporter=where, sampler=provider.sampler.get_description())
    return traces


def _exporter(environ: Mapping[str, str]) -> tuple[SpanExporter, str]:
    name = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(), name
    if name != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER: {name!r} is not otlp, console or none")
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc(), "otlp, grpc"
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        return OverHttp(), "otlp, http/protobuf"
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not grpc or http/protobuf")


def _sampler(environ: Mapping[str, str]) -> Sampler:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased

    name = environ.get("OTEL_TRACES_SAMPLER") or SAMPLER
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG") or RATIO
    root = name.removeprefix("parentbased_")
    sampler: Sampler
    if root == "traceidratio":
        try:
            sampler = TraceIdRatioBased(float(argument))
        except ValueError:
            raise ValueError(f"OTEL_TRACES_SAMPLER_ARG: {argument!r} is not a number from 0 to 1") from None
    elif root in ("always_on", "always_off"):
        sampler = ALWAYS_ON if root == "always_on" else ALWAYS_OFF
    else:
        raise ValueError(
            f"OTEL_TRACES_SAMPLER: {name!r} is not traceidratio, always_on, always_off or parentbased_ and one"
        )
    return ParentBased(sampler) if root != name else sampler


def _resource(environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment does not say."""
    attributes = {"service.version": version()}
    if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        attributes["service.name"] = SERVICE_NAME
    return attributes
