"""The sockets of a simulated model server: listening, routing, and the faults that come before an endpoint."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Unpack

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_server import Server

from epp.sim.admin import ADMIN
from epp.sim.answers import INFERENCE, Endpoint, engine_dead
from epp.sim.config import SimConfig
from epp.sim.core import Core, ReceivedRequest
from epp.sim.errors import ApiError
from epp.sim.faults import FaultChanges, Faults, changed, for_request
from epp.sim.sending import answer_headers, hang_up, silence

MOST_BODY_BYTES = 256 * 1024 * 1024


class SimServer:
    """A fake vLLM server on the running loop.

        async with SimServer(SimConfig(model="llama")) as server:
            ...  # server.address is "127.0.0.1:40123"

    `stop` and `start` play a crash and a restart on the same port: the engine comes back empty, the faults are cleared, the
    log of received requests stays.
    """

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self._core = Core(self.config)
        self._port = self.config.port
        self._listener: asyncio.Server | None = None
        self._http: Server | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def port(self) -> int:
        """Known after the first start when the configuration says 0."""
        return self._port

    @property
    def address(self) -> str:
        """host:port, with brackets around an IPv6 host."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{host}:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def is_running(self) -> bool:
        return self._listener is not None

    @property
    def requests(self) -> deque[ReceivedRequest]:
        """What was sent to the inference endpoints, oldest first."""
        return self._core.requests

    @property
    def scrapes(self) -> int:
        """How often /metrics was asked for."""
        return self._core.scrapes

    @property
    def running(self) -> int:
        """Sequences in the batch now, ahead of what /metrics says."""
        return self._core.runner.engine.running

    @property
    def waiting(self) -> int:
        return self._core.runner.engine.waiting

    @property
    def faults(self) -> Faults:
        return self._core.faults

    def set_faults(self, **changes: Unpack[FaultChanges]) -> None:
        """Set some faults, leave the others. ValueError names what is wrong."""
        self._core.apply_faults(changed(self._core.faults, changes))

    def clear_faults(self) -> None:
        self._core.apply_faults(Faults())

    async def start(self) -> None:
        """Listen, with a fresh engine. OSError when the port is taken."""
        if self._listener is not None:
            raise RuntimeError(f"{self.name}: already running on {self.address}")
        http = Server(
            self._handle,
            handler_cancellation=True,
            request_factory=_make_request,
            access_log=None,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(http, self.config.host, self._port, backlog=1024)
        self._port = self._listener.sockets[0].getsockname()[1]
        self._http = http
        self._core.start()

    async def stop(self) -> None:
        """Close the port and every connection at once; what was in progress is lost, as when a process is killed."""
        listener, self._listener = self._listener, None
        if listener is None or self._http is None:
            return
        listener.close()
        connections = self._http.connections
        for connection in connections:
            if connection.transport is not None:
                connection.transport.close()
        await self._core.stop()
        await self._http.shutdown(0)
        self._core.faults = Faults()

    async def __aenter__(self) -> SimServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        core = self._core
        try:
            endpoint = INFERENCE.get(request.path)
            if endpoint is not None and request.method == "POST":
                return await self._infer(request, endpoint)
            methods = ADMIN.get(request.path, {})
            handler = methods.get(request.method)
            if handler is not None:
                return await handler(core, request)
            known = endpoint is not None or methods
            raise ApiError(405, "Method Not Allowed") if known else ApiError(404, "Not Found")
        except ApiError as error:
            return error.response(answer_headers(core, request))
        except ConnectionResetError:
            # The client went away while it was being written to; nobody is left to tell.
            return web.Response()

    async def _infer(self, request: web.BaseRequest, endpoint: Endpoint) -> web.StreamResponse:
        core = self._core
        body = await request.read()
        core.record(request, body)
        try:
            faults = for_request(core.faults, request.headers)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        if faults.delay_ms:
            await asyncio.sleep(faults.delay_ms / 1000)
        if faults.error is not None:
            raise ApiError(faults.error, "simulated error")
        if faults.hang == 0:
            await silence()
        if faults.drop == 0:
            hang_up(request)
            return web.Response()
        if faults.engine_dead:
            raise engine_dead()
        core.load += 1
        try:
            return await endpoint(core, request, body, faults)
        finally:
            core.load -= 1


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request that may be as large as a prompt of a million tokens; aiohttp's own limit is 1 MiB."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MOST_BODY_BYTES)
