"""A stand-in for an engine that publishes KV events on loopback: events, replays, `/kv_event_sources`, and what goes wrong.

Like vLLM's ZmqEventPublisher: PUB frames (topic, number, payload); a ROUTER that sends again what it keeps, then an end mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from aiohttp import web

from tests.support.ports import free_port

_END = (-1).to_bytes(8, "big", signed=True)


class FakeEngine:
    """Use as an asynchronous context manager. `host_port` is where it would serve, and says where it publishes."""

    def __init__(self, *, replays: bool = True, keeps: int = 10_000, ranks: int = 1, topic: str = "kv@pod@m") -> None:
        self.topic = topic.encode()
        self.numbers = [0] * ranks
        self.buffers: list[deque[tuple[int, bytes]]] = [deque(maxlen=keeps) for _ in range(ranks)]
        self.replays = replays
        self.answers_replays = True
        self.replays_asked: list[int] = []
        self.subscribers = [0] * ranks
        self.host_port = ""
        self._context = zmq.asyncio.Context()
        self._publishers: list[zmq.asyncio.Socket] = []
        self._routers: list[zmq.asyncio.Socket] = []
        self._ports: list[tuple[int, int]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._arrived = asyncio.Event()
        self._ahead_s = 0.0

    async def __aenter__(self) -> FakeEngine:
        for rank in range(len(self.numbers)):
            self._open(rank, free_port(), free_port())
        app = web.Application()
        app.router.add_get("/kv_event_sources", self._sources)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.host_port = "{}:{}".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()
        if self._runner is not None:
            await self._runner.cleanup()
        self._context.destroy(linger=0)

    # --- what it does ------------------------------------------------------------------------------------------------

    @property
    def ports(self) -> tuple[int, int]:
        """Of events and of replays, of the first rank."""
        return self._ports[0]

    async def until_subscribed(self, rank: int = 0) -> None:
        async with asyncio.timeout(90):
            while not self.subscribers[rank]:
                self._arrived.clear()
                await self._arrived.wait()

    async def publish(self, *events: object, rank: int = 0, lost: bool = False, late_s: float = 0.0) -> int:
        """One message. `lost`: no subscriber gets it. `late_s`: its time is that long ago."""
        number = self.numbers[rank]
        self.numbers[rank] += 1
        sent_s = time.time() + self._ahead_s - late_s
        payload = msgspec.msgpack.encode([sent_s, list(events), rank])
        self.buffers[rank].append((number, payload))
        if not lost:
            await self._publishers[rank].send_multipart([self.topic, number.to_bytes(8, "big"), payload])
        return number

    async def send_raw(self, *frames: bytes) -> None:
        await self._publishers[0].send_multipart(list(frames))

    async def disconnect(self) -> None:
        """Every connection breaks; the ports are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for socket in (*self._publishers, *self._routers):
            socket.close(0)
        self._publishers, self._routers = [], []
        self.subscribers = [0] * len(self.numbers)

    async def come_back(self, *, anew: bool = False, elsewhere: bool = False) -> None:
        """After `disconnect`. `anew`: as another process, which counts from 0 and has nothing cached."""
        if anew:
            self.numbers = [0] * len(self.numbers)
            for buffer in self.buffers:
                buffer.clear()
            self._ahead_s += 1.0
        ports, self._ports = self._ports, []
        for rank, (events, replay) in enumerate(ports):
            self._open(rank, *((free_port(), free_port()) if elsewhere else (events, replay)))

    # --- sockets -----------------------------------------------------------------------------------------------------

    def _open(self, rank: int, events_port: int, replay_port: int) -> None:
        publisher = self._context.socket(zmq.XPUB)  # as PUB, and tells of its subscribers
        publisher.sndhwm = 0
        router = self._context.socket(zmq.ROUTER)
        router.sndhwm = 0
        self._publishers.append(publisher)
        self._routers.append(router)
        _bind(publisher, events_port)
        _bind(router, replay_port)
        self._ports.append((events_port, replay_port))
        self._tasks.append(asyncio.create_task(self._count(publisher, rank)))
        self._tasks.append(asyncio.create_task(self._replay(router, rank)))

    async def _count(self, publisher: zmq.asyncio.Socket, rank: int) -> None:
        while True:
            message = await publisher.recv()
            self.subscribers[rank] += 1 if message[:1] == b"\x01" else -1
            self._arrived.set()

    async def _replay(self, router: zmq.asyncio.Socket, rank: int) -> None:
        while True:
            who, _, first = await router.recv_multipart()
            self.replays_asked.append(int.from_bytes(first, "big"))
            if not self.answers_replays:
                continue
            for number, payload in tuple(self.buffers[rank]):
                if number >= int.from_bytes(first, "big"):
                    await router.send_multipart([who, b"", self.topic, number.to_bytes(8, "big"), payload])
            await router.send_multipart([who, b"", b"", _END, b""])

    async def _sources(self, request: web.Request) -> web.Response:
        sources: dict[str, Any] = {}
        for rank, (events, replay) in enumerate(self._ports):
            sources[str(rank)] = {"endpoint": f"tcp://127.0.0.1:{events}", "replay_endpoint": None}
            if self.replays:
                sources[str(rank)]["replay_endpoint"] = f"tcp://127.0.0.1:{replay}"
        return web.json_response(sources)


def stored(tokens: Sequence[int], *, block_size: int = 4, first: int = 0, medium: str | None = "GPU") -> dict[str, Any]:
    """The event of a prompt's blocks from number `first` on; equal tokens have equal hashes."""
    hashes = [_hash(tokens[: (i + 1) * block_size]) for i in range(len(tokens) // block_size)]
    return {
        "type": "BlockStored",
        "block_hashes": hashes[first:],
        "parent_block_hash": hashes[first - 1] if first else None,
        "token_ids": list(tokens[first * block_size : len(hashes) * block_size]),
        "block_size": block_size,
        "lora_id": None,
        "medium": medium,
        "lora_name": None,
    }


def removed(tokens: Sequence[int], *, block_size: int = 4, medium: str | None = "GPU") -> dict[str, Any]:
    return {
        "type": "BlockRemoved",
        "block_hashes": stored(tokens, block_size=block_size)["block_hashes"],
        "medium": medium,
    }


CLEARED = {"type": "AllBlocksCleared"}


def _hash(tokens: Sequence[int]) -> int:
    return hash(tuple(tokens)) & ((1 << 64) - 1)


def _bind(socket: zmq.asyncio.Socket, port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(zmq.ZMQError):
            socket.bind(f"tcp://127.0.0.1:{port}")
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"port {port} does not become free")
        time.sleep(0.001)  # until ZeroMQ's own thread has closed what was bound before
