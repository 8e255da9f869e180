"""An EPP inside the test's process: director, pipeline and a fleet, behind either transport."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc

from epp.api import IN_FLIGHT_REQUESTS, IN_FLIGHT_TOKENS, Nowhere, Outside, Plugin
from epp.config import Environment, Registry, build, load_default, load_text
from epp.data.datastore import Datastore
from epp.data.endpoint_spec import EndpointSpec
from epp.director.director import Director
from epp.director.encoding import Encodings
from epp.observability.explain import Decisions
from epp.observability.metrics import Recorder
from epp.server.grpcio import GrpcServer
from epp.server.health import EXT_PROC_SERVICE, HealthState
from epp.server.lean import LeanServer
from epp.server.session import ExtProc
from epp.server.tls import Certificate, grpc_credentials, ssl_context
from epp_plugins.registry import ALIASES, BUILTIN, by_type

TRANSPORTS = ("lean", "grpcio")


def make_director(
    *endpoints: str,
    config: str = "",
    plugins: Sequence[type[Plugin]] = (),
    read_gzip: bool = True,
    keep: int = 0,
    outside: Outside | None = None,
    clock: Callable[[], float] = monotonic,
) -> Director:
    """A director over endpoints `ip:port`, with the built-in default configuration unless another is given.

    `plugins` may be used in the configuration beside the in-tree ones. `keep`: decisions to explain. With `outside`,
    background work is started.
    """
    datastore = Datastore(rng=random.Random(0))
    recorder = Recorder(clock, process=False)
    environment = Environment(
        fleet=datastore.fleet,
        clock=clock,
        random=random.Random(0),
        log=logging.getLogger("test"),
        metrics=recorder.plugin_metrics,
        observer=recorder,
        allow_experimental=True,
        sleep=asyncio.sleep,
        outside=outside or Nowhere(),
    )
    loaded = load_text(config, "test.yaml") if config else load_default()
    registry = Registry(by_type((*BUILTIN.values(), *plugins)), aliases=ALIASES)
    pipeline = build(loaded, registry, environment)
    for worker in pipeline.background if outside is not None else ():
        worker.start()
    for listener in pipeline.endpoint_listeners:
        datastore.add_listener(listener)
    specs = [EndpointSpec(f"s{i}", *_split(text)) for i, text in enumerate(endpoints)]
    datastore.replace_all(specs)
    datastore.synced = True
    return Director(
        datastore,
        pipeline,
        recorder=recorder,
        clock=clock,
        decisions=Decisions(datastore.fleet, clock, keep=keep),
        encodings=Encodings(read=read_gzip, max_body_bytes=1 << 24),
    )


def make_environment_of(director: Director) -> Environment:
    """What plugins of another pipeline for `director` are lent."""
    return Environment(
        fleet=director.datastore.fleet,
        clock=monotonic,
        random=random.Random(0),
        log=logging.getLogger("test"),
        metrics=director.recorder.plugin_metrics,
        observer=director.recorder,
        allow_experimental=True,
    )


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def in_flight(director: Director) -> float:
    """Requests and tokens counted as in flight, over all rows."""
    columns = director.datastore.fleet.columns
    return float(columns[IN_FLIGHT_REQUESTS].sum() + columns[IN_FLIGHT_TOKENS].sum())


class Running:
    """A server on a free loopback port."""

    def __init__(self, service: ExtProc, server: LeanServer | GrpcServer, certificate: Certificate | None) -> None:
        self.service = service
        self.server = server
        self._certificate = certificate
        self.health = HealthState(synced=True)

    @property
    def address(self) -> str:
        return f"localhost:{self.server.port}" if self._certificate else f"127.0.0.1:{self.server.port}"

    def channel(self) -> grpc.aio.Channel:
        if self._certificate is None:
            return grpc.aio.insecure_channel(self.address, options=[("grpc.max_receive_message_length", -1)])
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(self._certificate.pair.chain))


@asynccontextmanager
async def serving(
    transport: str, director: Director, *, tls: bool = False, max_body_bytes: int = 1 << 24
) -> AsyncIterator[Running]:
    service = ExtProc(director, max_body_bytes=max_body_bytes)
    health = HealthState(synced=True)
    certificate = Certificate() if tls else None
    server: LeanServer | GrpcServer
    if transport == "lean":
        server = LeanServer(health, service)
        await server.start("127.0.0.1", 0, tls=ssl_context(certificate) if certificate else None)
    else:
        server = GrpcServer(health, service)
        await server.start("127.0.0.1", 0, tls=grpc_credentials(certificate) if certificate else None)
    running = Running(service, server, certificate)
    running.health = health
    try:
        yield running
    finally:
        await server.stop(grace_s=0)


def process_call(channel: grpc.aio.Channel) -> Any:
    """A call of Process that takes and gives bytes."""
    return channel.stream_stream(f"/{EXT_PROC_SERVICE}/Process")()


async def converse(channel: grpc.aio.Channel, messages: Sequence[bytes]) -> list[bytes]:
    """Send everything, then read what comes until the server ends the call."""
    call = process_call(channel)
    for message in messages:
        await call.write(message)
    await call.done_writing()
    return [reply async for reply in call]
