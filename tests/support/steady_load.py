"""Requests at a steady rate while something else happens, and every one that failed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import msgspec


class Failure(NamedTuple):
    sent_s: float
    """By the event loop's clock."""
    problem: str


class SteadyLoad(msgspec.Struct):
    """What came of it so far."""

    rate: float
    sent: int = 0
    answered: int = 0
    failures: list[Failure] = []
    servers: set[str] = set()
    """Simulated servers that answered, by name."""

    async def until_answered(self, more: int) -> None:
        """Return when so many more requests were answered."""
        wanted = self.answered + more
        async with asyncio.timeout(90):
            while self.answered < wanted:  # noqa: ASYNC110  (a counter tells nobody)
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def steady_load(url: str, *, rate: float, model: str) -> AsyncIterator[SteadyLoad]:
    """`rate` requests a second, whether or not earlier ones were answered, until the block ends; all are waited for."""
    load = SteadyLoad(rate)
    pending: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=connector) as session:

        async def one(number: int) -> None:
            body = {"model": model, "prompt": f"number {number} of a steady load", "max_tokens": 2}
            sent_s = loop.time()
            try:
                async with session.post(f"{url}/v1/completions", json=body) as response:
                    text = await response.text()
                    if response.status == 200:
                        load.answered += 1
                        load.servers.add(response.headers.get("x-sim-name", ""))
                        return
                    problem = f"{response.status} {text[:200]}"
            except (aiohttp.ClientError, OSError) as error:
                problem = repr(error)
            load.failures.append(Failure(sent_s, problem))

        async def send() -> None:
            began = loop.time()
            for number in itertools.count():
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                if stop.is_set():
                    return
                task = asyncio.create_task(one(number))
                pending.add(task)
                task.add_done_callback(pending.discard)
                load.sent += 1

        sending = asyncio.create_task(send())
        try:
            yield load
        finally:
            stop.set()
            await sending
            await asyncio.gather(*pending)
