from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from epp.api import Fleet, PrefixMatch, Request
from epp_plugins.producers.burst_prefix_cache_producer import BurstPrefixCacheProducer
from tests.support.plugins import Clock, make_fleet, make_handle
from tests.support.scheduling import make_request

KEY = "PrefixCacheMatchInfo/burst-prefix-cache-producer"


class Window:
    """A producer whose windows end when the test says so."""

    def __init__(self, fleet: Fleet, **parameters: Any) -> None:
        self.fleet, self.clock, self.ended = fleet, Clock(0.0), asyncio.Event()
        self.slept: list[float] = []
        handle = make_handle(fleet, name="burst-prefix-cache-producer", clock=self.clock)
        params = msgspec.convert({"blockSizeTokens": 1} | parameters, BurstPrefixCacheProducer.Params)
        self.producer = BurstPrefixCacheProducer(params, msgspec.structs.replace(handle, sleep=self._sleep))
        self.tasks: list[asyncio.Task[None]] = []

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.ended.wait()

    def come(self, prompt: bytes) -> Request:
        request = make_request(prompt)
        waiting: Awaitable[None] | None = self.producer.produce(request, self.fleet.candidates())
        if waiting is not None:
            self.tasks.append(asyncio.ensure_future(waiting))
        return request

    async def end(self) -> None:
        self.ended.set()
        await asyncio.gather(*self.tasks)


def matched(request: Request) -> list[float]:
    match: PrefixMatch = request.data[KEY]
    return [float(blocks) for blocks in match.matched_blocks[:3]] + [match.total_blocks]


async def test_requests_of_one_window_are_assigned_together() -> None:
    window = Window(make_fleet(3), windowDurationMs=100)
    requests = [window.come(prompt) for prompt in (b"aaaabbbb", b"aaaabbbb", b"ccccdddd", b"aaaabbbb")]
    assert not any(KEY in request.data for request in requests)

    await window.end()

    assert [matched(request) for request in requests] == [[2, 0, 0, 2], [2, 0, 0, 2], [0, 0, 0, 2], [2, 0, 0, 2]]


async def test_the_window_ends_for_all_when_it_ends_for_the_first() -> None:
    window = Window(make_fleet(1), windowDurationMs=200)
    window.come(b"aaaa")
    await asyncio.sleep(0)
    window.clock.now = 0.15
    window.come(b"aaaa")
    await asyncio.sleep(0)

    assert window.slept == [pytest.approx(0.2), pytest.approx(0.05)]
    assert window.producer.timeout_s == pytest.approx(0.5)
    await window.end()


async def test_the_next_request_begins_another_window() -> None:
    window = Window(make_fleet(2))
    window.come(b"aaaa")
    await window.end()
    later = [window.come(b"aaaa"), window.come(b"aaaa")]

    await window.end()

    assert [matched(request)[:2] for request in later] == [[1, 0], [1, 0]]


async def test_a_full_window_takes_no_more_requests() -> None:
    window = Window(make_fleet(2), maxBatchSize=2)
    requests = [window.come(b"aaaa") for _ in range(3)]

    await window.end()

    assert [matched(request)[:2] for request in requests] == [[1, 0], [1, 0], [0, 0]]


async def test_a_prompt_shorter_than_a_block_does_not_wait() -> None:
    window = Window(make_fleet(1), blockSizeTokens=64)

    request = window.come(b"short")

    assert window.tasks == []
    assert matched(request)[-1] == 0


async def test_a_client_that_leaves_shares_with_nobody() -> None:
    window = Window(make_fleet(1))
    window.come(b"aaaa")
    stayed = window.come(b"aaaa")
    await asyncio.sleep(0)
    window.tasks[0].cancel()
    await asyncio.wait([window.tasks[0]])
    del window.tasks[0]

    await window.end()

    assert matched(stayed)[0] == 0


async def test_an_endpoint_that_goes_while_requests_wait_is_not_chosen() -> None:
    fleet = make_fleet(2)
    window = Window(fleet)
    requests = [window.come(b"aaaa"), window.come(b"aaaa")]
    fleet.remove(fleet.candidates().endpoints[0])

    await window.end()

    assert [matched(request)[:2] for request in requests] == [[0, 1], [0, 1]]


async def test_other_models_and_salts_share_nothing() -> None:
    window = Window(make_fleet(1))
    requests = [window.come(b"aaaa")]
    other = make_request(b"aaaa", cache_salt="mine")
    waiting = window.producer.produce(other, window.fleet.candidates())
    assert waiting is not None
    window.tasks.append(asyncio.ensure_future(waiting))

    await window.end()

    assert [matched(request)[0] for request in (*requests, other)] == [0, 0]
