"""Endpoints that exist only as metrics pages, and know when each EPP has read the newest state of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

_OURS: Final = b"User-Agent: llm-epp\r\n"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one server's page says. `kv` is a fraction; `lora` are names of adapters."""

    queued: int = 0
    running: int = 0
    kv: float = 0.0
    lora: Sequence[str] = ()
    lora_waiting: Sequence[str] = ()
    lora_max: int = 0
    typed: bool = True

    def page(self) -> str:
        """In vLLM's names; `typed` with the types, without which the Go EPP does not read a sample."""
        gauges: dict[str, str | float] = {
            "num_requests_waiting": self.queued,
            "num_requests_running": self.running,
            "kv_cache_usage_perc": self.kv,
        }
        lines = [f"# TYPE vllm:{n} gauge\nvllm:{n}" + '{model_name="m"} ' + f"{v}" for n, v in gauges.items()]
        if self.lora_max:
            running, waiting = ",".join(self.lora), ",".join(self.lora_waiting)
            labels = f'max_lora="{self.lora_max}",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
            # The value is the time of the last change: the sample with the greatest is the one that counts.
            lines.append(f"# TYPE vllm:lora_requests_info gauge\nvllm:lora_requests_info{{{labels}}} 1000")
        text = "\n".join(lines) + "\n"
        return text if self.typed else "".join(x for x in text.splitlines(keepends=True) if not x.startswith("#"))


class _Connection(asyncio.Protocol):
    """Answers every GET, of whichever path, with the page of its server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answered = 0
        """The number of the page that was the last answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            # Who asks again on the same connection has read the whole answer: one that came too late would have closed it.
            self._server.was_read(self._answered, ours=_OURS in head + b"\r\n")
            assert self._transport is not None
            self._transport.write(self._server.answer)
            self._answered = self._server.page


class Server:
    """One endpoint's page, on an address of its own: the Go EPP tells endpoints of a subset by their IP alone."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = 0
        self.answer = b""
        self.page = 0
        """The number of the page that is shown, from 1."""
        self._listening: asyncio.Server | None = None
        self._read = {True: 0, False: 0}
        self._wanted: list[tuple[bool, int, asyncio.Future[None]]] = []
        self.show(Load())

    @property
    def host_port(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Connection(self), self.host, 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._listening is not None:
            self._listening.close()

    def show(self, load: Load) -> None:
        body = load.page().encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = head.encode() + body
        self.page += 1

    def was_read(self, page: int, *, ours: bool) -> None:
        """This EPP has taken in the page of this number."""
        self._read[ours] = max(self._read[ours], page)
        for wanted in [w for w in self._wanted if w[0] is ours and self._read[ours] >= w[1]]:
            self._wanted.remove(wanted)
            if not wanted[2].done():
                wanted[2].set_result(None)

    def read_by(self, *, ours: bool) -> asyncio.Future[None]:
        """Done once this EPP has certainly taken in the page shown now: it asks for the next one only after that."""
        future = asyncio.get_running_loop().create_future()
        if self._read[ours] >= self.page:
            future.set_result(None)
        else:
            self._wanted.append((ours, self.page, future))
        return future


class FakeFleet:
    """One server for each set of labels, which goes into the discovery file."""

    def __init__(self, labels: Sequence[Mapping[str, str]]) -> None:
        self.servers = [Server(f"127.0.7.{i + 1}") for i in range(len(labels))]
        self.labels = labels

    @property
    def host_ports(self) -> list[str]:
        return [s.host_port for s in self.servers]

    async def start(self) -> None:
        for server in self.servers:
            await server.start()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def file(self) -> dict[str, object]:
        """The discovery file's content."""
        return {
            "endpoints": [
                {"name": f"e{i}", "address": s.host, "port": str(s.port), "labels": dict(self.labels[i])}
                for i, s in enumerate(self.servers)
            ]
        }

    async def show(self, loads: Sequence[Load], *, deadline_s: float = 60.0) -> None:
        """Change every page and return once both EPPs have taken it in."""
        for server, load in zip(self.servers, loads, strict=True):
            server.show(load)
        await self.read(deadline_s=deadline_s)

    async def read(self, *, deadline_s: float = 60.0) -> None:
        reads = [s.read_by(ours=ours) for s in self.servers for ours in (True, False)]
        async with asyncio.timeout(deadline_s):
            await asyncio.gather(*reads)
