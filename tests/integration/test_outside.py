"""The outside that plugins are lent: real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import zmq
import zmq.asyncio
from aiohttp import web

from epp.api import Dialogue, OutsideError
from epp.outside import World, sockets
from tests.support.http_fakes import eventually
from tests.support.ports import free_port


class Listener:
    """Notes what a subscription brings, and lets a test wait for it."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []
        self.changes: list[str] = []
        self._news = asyncio.Event()

    def connected(self) -> None:
        self._note("connected")

    def disconnected(self) -> None:
        self._note("disconnected")

    def received(self, messages: Sequence[list[bytes]], *, more: bool) -> None:
        self.messages += messages
        self._news.set()

    def _note(self, change: str) -> None:
        self.changes.append(change)
        self._news.set()

    async def until(self, seen: object) -> None:
        """Until `seen` (called without arguments) is true."""
        assert callable(seen)
        async with asyncio.timeout(60):
            while not seen():
                self._news.clear()
                await self._news.wait()


@contextlib.contextmanager
def publishing() -> object:
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)  # tells of its subscribers, so that a test need not guess when they are there
    socket.sndhwm = 0  # drops nothing
    address = f"tcp://127.0.0.1:{free_port()}"
    socket.bind(address)
    try:
        yield socket, address
    finally:
        context.destroy(linger=0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), status=int(request.query.get("status", "200")))

    async def hang(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound("/echo")

    app = web.Application()
    app.router.add_route("*", "/echo", echo)
    app.router.add_get("/hang", hang)
    app.router.add_get("/redirect", redirect)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0][:2])
    await runner.cleanup()


async def test_http_answers_are_whole_whatever_their_status(world: World, site: str) -> None:
    reply = await world.http("POST", f"{site}/echo?status=503", body=b"x" * 100_000, timeout_s=60)

    assert (reply.status, len(reply.body)) == (503, 100_000)
    assert (await world.http("GET", f"{site}/redirect", timeout_s=60)).status == 302


async def test_http_that_does_not_answer_times_out(world: World, site: str) -> None:
    with pytest.raises(TimeoutError):
        await world.http("GET", f"{site}/hang", timeout_s=0.05)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "nonsense", "http://[::1", "ftp://127.0.0.1/"])
async def test_http_that_cannot_be_reached_is_one_kind_of_error(world: World, url: str) -> None:
    with pytest.raises(OutsideError):
        await world.http("GET", url, timeout_s=60)


async def test_http_answers_beyond_the_limit_are_refused(world: World, site: str) -> None:
    with pytest.raises(OutsideError, match="more than 10 bytes"):
        await world.http("POST", f"{site}/echo", body=b"x" * 11, timeout_s=60, max_bytes=10)


async def test_a_subscription_brings_messages_in_order_and_tells_of_connections(world: World) -> None:
    listener = Listener()
    with publishing() as (socket, address):  # type: ignore[misc]
        world.subscribe(listener, address)
        await listener.until(lambda: listener.changes == ["connected"])
        assert await asyncio.to_thread(socket.recv) == b"\x01"
        for i in range(1000):
            socket.send_multipart([b"t", str(i).encode()])
        await listener.until(lambda: len(listener.messages) == 1000)

        assert [int(m[1]) for m in listener.messages] == list(range(1000))
    await listener.until(lambda: listener.changes[-1] == "disconnected")


async def test_a_publisher_that_comes_back_is_found_again(world: World) -> None:
    listener = Listener()
    with publishing() as (_, address):  # type: ignore[misc]
        world.subscribe(listener, address)
        await listener.until(lambda: listener.changes == ["connected"])
    await listener.until(lambda: listener.changes[-1] == "disconnected")
    context = zmq.Context()
    try:
        socket = context.socket(zmq.XPUB)
        socket.bind(address)
        await listener.until(lambda: listener.changes[-1] == "connected")
    finally:
        context.destroy(linger=0)


async def test_where_nobody_publishes_is_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    address = f"tcp://127.0.0.1:{free_port()}"
    world.subscribe(listener, address)
    await eventually(lambda: "nobody publishes" in caplog.text)

    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.bind(address)
    await listener.until(lambda: listener.changes == ["connected"])
    context.destroy(linger=0)
    await listener.until(lambda: listener.changes == ["connected", "disconnected"])
    assert [record.getMessage() for record in caplog.records] == [
        f"nobody publishes at {address}; it is tried again and again"
    ]


async def test_a_bound_subscription_takes_publishers_that_connect(world: World) -> None:
    listener = Listener()
    subscription = world.subscribe(listener, "tcp://127.0.0.1:*", bind=True, topic=b"kv@")
    context = zmq.Context()
    try:
        socket = context.socket(zmq.XPUB)
        socket.connect(subscription.address)  # type: ignore[attr-defined]
        assert await asyncio.to_thread(socket.recv) == b"\x01kv@"
        socket.send_multipart([b"other", b"1"])
        socket.send_multipart([b"kv@a", b"2"])
        await listener.until(lambda: listener.messages)

        assert listener.messages == [[b"kv@a", b"2"]]
    finally:
        context.destroy(linger=0)


async def test_a_flood_leaves_turns_to_others(world: World) -> None:
    """A bounded number of messages is read at a time: requests are served in between."""
    listener = Listener()
    with publishing() as (socket, address):  # type: ignore[misc]
        world.subscribe(listener, address)
        assert await asyncio.to_thread(socket.recv) == b"\x01"
        flood = threading.Thread(target=lambda: [socket.send_multipart([b"t", b"x" * 200]) for _ in range(20_000)])
        flood.start()
        turns = 0
        async with asyncio.timeout(100):
            while len(listener.messages) < 20_000:
                await asyncio.sleep(0)
                turns += 1
        flood.join()

    assert turns >= 20_000 / 64 / 2


async def test_a_listener_that_was_told_of_more_is_told_when_there_is_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_AT_ONCE", 1)  # each message may be followed by another one
    told: list[tuple[int, bool]] = []

    class Noting(Listener):
        def received(self, messages: Sequence[list[bytes]], *, more: bool) -> None:
            told.append((len(messages), more))
            super().received(messages, more=more)

    listener = Noting()
    with publishing() as (socket, address):  # type: ignore[misc]
        world.subscribe(listener, address)
        assert await asyncio.to_thread(socket.recv) == b"\x01"
        for _ in range(3):
            socket.send_multipart([b"t"])
        await listener.until(lambda: len(listener.messages) == 3 and told[-1] == (0, False))

    assert [entry for entry in told if entry[0]] == [(1, True)] * 3


async def test_what_a_listener_raises_does_not_end_the_reading(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Listener):
        def received(self, messages: Sequence[list[bytes]], *, more: bool) -> None:
            super().received(messages, more=more)
            if len(self.messages) == 1:
                raise ValueError("broken")

    listener = Broken()
    with publishing() as (socket, address):  # type: ignore[misc]
        world.subscribe(listener, address)
        assert await asyncio.to_thread(socket.recv) == b"\x01"
        socket.send_multipart([b"t", b"1"])
        await listener.until(lambda: len(listener.messages) == 1)
        socket.send_multipart([b"t", b"2"])
        await listener.until(lambda: len(listener.messages) == 2)

    assert "could not be taken in" in caplog.text


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "udp://127.0.0.1:1"])
async def test_an_address_that_cannot_be_is_refused(world: World, address: str) -> None:
    with pytest.raises(OutsideError, match=address):
        world.subscribe(Listener(), address)


async def test_a_dialogue_asks_and_reads_answers(world: World) -> None:
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    async def answer() -> None:
        who, *asked = await router.recv_multipart()
        for i in range(3):
            await router.send_multipart([who, *asked, str(i).encode()])

    answering = asyncio.create_task(answer())
    got: list[list[bytes]] = []

    async def read(dialogue: Dialogue, *, idle_s: float) -> None:
        async for frames in dialogue.receive(idle_s=idle_s):
            got.append(frames)
            if len(got) == 3:
                break

    try:
        async with world.dialogue(f"tcp://127.0.0.1:{port}") as dialogue:
            await dialogue.send((b"", b"from 5"))
            await read(dialogue, idle_s=60.0)
            with pytest.raises(TimeoutError):
                await read(dialogue, idle_s=0.05)
    finally:
        await answering
        context.destroy(linger=0)

    assert got == [[b"", b"from 5", str(i).encode()] for i in range(3)]


async def test_threads_and_tasks(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    assert await world.in_thread(threading.get_ident) != threading.get_ident()
    await asyncio.wait([world.spawn(fail(), name="the job")])  # type: ignore[list-item]

    assert "the job has stopped" in caplog.text


async def test_closing_ends_everything_and_refuses_more(site: str) -> None:
    world = World()
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    listener = Listener()
    job = world.spawn(work(), name="work")
    world.subscribe(listener, "tcp://127.0.0.1:1")
    await world.http("GET", f"{site}/echo", timeout_s=60)
    await began.wait()

    await world.close()

    assert job.done()
    for refused in (
        lambda: world.subscribe(listener, "tcp://127.0.0.1:1"),
        lambda: world.dialogue("tcp://127.0.0.1:1"),
    ):
        with pytest.raises(OutsideError, match="stops"):
            refused()
    with pytest.raises(OutsideError, match="stops"):
        await world.http("GET", site, timeout_s=60)
