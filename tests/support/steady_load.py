"""Requests at a steady rate to simulated servers while something else happens, and every one that failed.

A request has failed when its status is not 200, when its connection broke, when it took too long, and when its answer has
fewer words than the server says that it made.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import aiohttp
import msgspec

_DATA: Final = b"data: "
_LAST: Final = b"data: [DONE]\n\n"


class Failure(NamedTuple):
    number: int
    """The first request of the load is 0."""
    sent_s: float
    """By the event loop's clock."""
    ended_s: float
    problem: str


class SteadyLoad(msgspec.Struct):
    """What came of it so far."""

    rate: float
    sent: int = 0
    answered: int = 0
    failures: list[Failure] = []
    servers: set[str] = set()
    """Simulated servers that answered, by name."""
    under_way: set[int] = set()
    held_back: bool = False
    """As long as it is, nothing more is sent."""

    async def until_answered(self, more: int) -> None:
        """Return when so many more requests were answered."""
        wanted = self.answered + more
        async with asyncio.timeout(90):
            while self.answered < wanted:  # noqa: ASYNC110  (a counter tells nobody)
                await asyncio.sleep(0.02)

    async def until_ended(self, number: int) -> None:
        """Return when no request before that one is under way."""
        async with asyncio.timeout(90):
            while min(self.under_way, default=number) < number:  # noqa: ASYNC110  (the same)
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def steady_load(url: str, *, rate: float, model: str, streamed: int = 0) -> AsyncIterator[SteadyLoad]:
    """`rate` requests a second, whether or not earlier ones were answered, until the block ends; all are waited for.

    Of each ten, `streamed` have an answer of 30 tokens that comes in pieces; the others of 2 tokens.
    """
    load = SteadyLoad(rate)
    pending: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=connector) as session:

        async def one(number: int) -> None:
            streams = number % 10 < streamed
            body = {"model": model, "prompt": f"number {number} of a steady load", "max_tokens": 30 if streams else 2}
            if streams:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            sent_s = loop.time()
            try:
                async with session.post(f"{url}/v1/completions", json=body) as response:
                    text = await response.read()
                    problem = f"{response.status} {text[:200]!r}"
                    if response.status == 200 and _is_whole(text, streams=streams):
                        load.answered += 1
                        load.servers.add(response.headers.get("x-sim-name", ""))
                        return
            except (aiohttp.ClientError, OSError) as error:
                problem = repr(error)
            finally:
                load.under_way.remove(number)
            load.failures.append(Failure(number, sent_s, loop.time(), problem))

        async def send() -> None:
            began = loop.time()
            for number in itertools.count():
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                while load.held_back and not stop.is_set():  # noqa: ASYNC110  (the same)
                    await asyncio.sleep(0.01)
                if stop.is_set():
                    return
                load.under_way.add(number)
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


class _Choice(msgspec.Struct):
    text: str


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Part(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_PART: Final = msgspec.json.Decoder(_Part)


def _is_whole(text: bytes, *, streams: bool) -> bool:
    """A simulated server's tokens are words."""
    if streams and not text.endswith(_LAST):
        return False
    documents = text.removesuffix(_LAST).split(b"\n\n")[:-1] if streams else [text]
    try:
        parts = [_PART.decode(document.removeprefix(_DATA)) for document in documents]
    except msgspec.DecodeError:
        return False
    words = sum(len(choice.text.split()) for part in parts for choice in part.choices)
    return sum(part.usage.completion_tokens for part in parts if part.usage is not None) == words > 0
