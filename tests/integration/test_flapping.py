"""Endpoints that appear, vanish and move while requests are under way: counts stay exact, and nothing is left behind.

Five seconds here; EPP_FLAP_SECONDS=60 for the minute that a release is tried for.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import os
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import pytest
import uvloop

from epp.api import IN_FLIGHT_REQUESTS, IN_FLIGHT_TOKENS, Endpoint
from epp.data.collector import Collector
from epp.data.endpoint_spec import EndpointSpec
from epp.data.engines import load_engines
from epp.director.director import Director
from epp.server.session import ExtProc, Session
from tests.support.extproc import POST, request_body, request_headers, response_headers
from tests.support.http_fakes import FakeServer, drip, eventually, hang, head, page, raw, serving
from tests.support.processes import open_files
from tests.support.service import make_director

SECONDS: Final = float(os.environ.get("EPP_FLAP_SECONDS", "5"))
ENDPOINTS: Final = 200
MOST_OPEN: Final = 400
PAGE: Final = b'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_running{engine="0"} 2\n'
BODIES: Final = [json.dumps({"model": "m", "prompt": f"{i} " * 100}).encode() for i in range(20)]
BEHAVIOURS: Final = (page(PAGE), page(PAGE), hang(), raw(b"junk"), raw(head() + PAGE), drip(head(), every_s=0.01))
HEADERS: Final = request_headers(POST).SerializeToString()
RESPONSE: Final = response_headers().SerializeToString()
FREE_BYTES: Final = 1_000_000  # what memory may grow by from the middle to the end: caches of the interpreter


class Traffic:
    """Requests of which some always are under way, each known with the endpoint that it went to."""

    def __init__(self, director: Director, rng: random.Random) -> None:
        self._service = ExtProc(director, max_body_bytes=1 << 20)
        self._rng = rng
        self.open: list[tuple[Session, Endpoint]] = []
        self.sent = self.refused = 0

    def begin(self) -> None:
        session = self._service.session(lambda: None)
        session.receive(HEADERS)
        session.receive(request_body(self._rng.choice(BODIES), end=True).SerializeToString())
        request = session._exchange.request
        assert request is not None
        if request.result is None:
            self.refused += 1
            session.close("OK")
            return
        session.take()
        self.sent += 1
        self.open.append((session, request.result.target))

    def end(self) -> None:
        """Any of them, in one of the ways in which requests end."""
        session, _ = self.open.pop(self._rng.randrange(len(self.open)))
        if self._rng.random() < 0.7:
            session.receive(RESPONSE)
            session.take()
        session.close(self._rng.choice(["OK", "CANCELLED"]))

    def step(self) -> None:
        for _ in range(self._rng.randrange(8)):
            self.begin()
        while self.open and (len(self.open) > MOST_OPEN or self._rng.random() < 0.75):
            self.end()

    def counts(self) -> Counter[Endpoint]:
        return Counter(endpoint for _, endpoint in self.open if endpoint.alive)


class Pool:
    """What there should be: endpoints that come, go and move at random. Names of those that went do not come again."""

    def __init__(self, servers: list[FakeServer], rng: random.Random) -> None:
        self._servers = servers
        self._rng = rng
        self._specs: dict[int, EndpointSpec] = {}
        self._numbers = itertools.count()

    def _spec(self, name: str) -> EndpointSpec:
        # Nobody listens at the second address.
        address = "127.0.0.1" if self._rng.random() < 0.9 else "127.0.0.2"
        return EndpointSpec(name, address, self._rng.choice(self._servers).port)

    def change(self) -> list[EndpointSpec]:
        for place in self._rng.sample(range(ENDPOINTS), 10):
            known = self._specs.get(place)
            if known is None:
                self._specs[place] = self._spec(f"e{next(self._numbers)}")
            elif self._rng.random() < 0.6:
                self._specs[place] = self._spec(known.name)
            else:
                del self._specs[place]
        if self._rng.random() < 0.01:
            self._specs.clear()  # all at once
        return list(self._specs.values())


def _assert_exact(director: Director, traffic: Traffic) -> None:
    counted = director.datastore.fleet.columns[IN_FLIGHT_REQUESTS]
    expected = traffic.counts()
    assert {e.name: counted[e.row] for e in director.datastore.endpoints} == {
        e.name: expected[e] for e in director.datastore.endpoints
    }


@contextlib.asynccontextmanager
async def _fake_servers() -> AsyncIterator[list[FakeServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(b)) for b in BEHAVIOURS for _ in range(2)]


async def _flap() -> None:
    rng = random.Random(11)
    async with _fake_servers() as servers:
        sockets = _sockets()
        tasks = asyncio.all_tasks()
        director = make_director()
        store = director.datastore
        collector = Collector(
            store.fleet,
            load_engines(),
            clock=time.monotonic,
            interval_s=0.05,
            timeout_s=0.1,
            idle_interval_s=0.2,
            stale_after_s=0.3,
            rng=rng,
        )
        store.add_listener(collector)
        store.add_listener(director.recorder)
        traffic, pool = Traffic(director, rng), Pool(servers, rng)
        middle_s, end_s = time.monotonic() + SECONDS / 2, time.monotonic() + SECONDS
        middle_bytes = 0
        scraped = steps = 0

        async def bytes_when_empty() -> int:
            _assert_exact(director, traffic)
            while traffic.open:
                traffic.end()
            _assert_exact(director, traffic)
            everyone = store.fleet.candidates()
            assert not everyone.column(IN_FLIGHT_REQUESTS).any()
            assert not everyone.column(IN_FLIGHT_TOKENS).any()
            store.replace_all([])
            await eventually(lambda: all(server.connections == 0 for server in servers))
            await eventually(lambda: asyncio.all_tasks() == tasks)
            return _memory_bytes(servers)

        # A slow machine goes on until it has seen what is to be seen.
        while (now := time.monotonic()) < end_s or not (middle_bytes and scraped and traffic.sent > 100):
            if steps % 3 == 0:
                store.replace_all(pool.change())
            traffic.step()
            if steps % 20 == 0:
                _assert_exact(director, traffic)
                scraped = max(scraped, sum(status.scrapes for status in collector.statuses()))
            if not middle_bytes and now > middle_s:
                middle_bytes = await bytes_when_empty()
            steps += 1
            await asyncio.sleep(0.001)

        grown_bytes = await bytes_when_empty() - middle_bytes
        await collector.close()
        assert collector.statuses() == []
        await eventually(lambda: all(server.connections == 0 for server in servers))
        await eventually(lambda: asyncio.all_tasks() == tasks)
        await eventually(lambda: not _sockets() - sockets)
        assert grown_bytes < FREE_BYTES, f"{grown_bytes} bytes more after {steps} steps"


def _memory_bytes(servers: list[FakeServer]) -> int:
    """What Python objects take, the fake servers' own records aside."""
    for server in servers:
        server.requests.clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _sockets() -> set[str]:
    """The sockets that this process has open."""
    return {file for file in open_files(os.getpid()) if file.startswith("socket:")}


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
@pytest.mark.timeout(300 + 2 * SECONDS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_flapping_endpoints_leave_exact_counts_flat_memory_and_nothing_open(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    # Failures are the rule here, and records of them would count as memory.
    caplog.set_level(logging.CRITICAL)
    tracemalloc.start()
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_flap())
    finally:
        tracemalloc.stop()
