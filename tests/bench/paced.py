"""Requests at a fixed rate, whatever becomes of the earlier ones: an open loop, evenly spaced.

    python -m tests.bench.paced --url http://HOST:PORT/PATH --rate 300 --requests 600 --body-bytes 1024 --salt S

Prints one line of JSON. There to fill a gap: wrk knows only closed loops, h2load 1.52 sends what is due every 10 ms all at once
(--rps) or falls behind its own timetable (--timing-script-file). Here a request goes out in the millisecond that it is due, on
an idle connection or, if there is none, on another one. Its time runs from when it is sent until its answer's last byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Sequence
from time import perf_counter
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

from tests.bench.prompts import Prompts

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Client(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[int] | None = None
        self._received = b""
        self._left: int | None = None
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done(0)

    async def ask(self, request: bytes) -> int:
        """The answer's status, once all of it is in; 0 when the connection broke."""
        if self._transport.is_closing():
            return 0
        self._answered = self._loop.create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._status:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._status = int(head[9:12])
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else None
            # The separator belongs to the head and, where the body is nothing but its last chunk, to that as well.
            self._received = rest if length else b"\r\n" + rest
        if self._left is not None:
            self._left -= len(self._received)
            self._received = b""
            if self._left <= 0:
                self._done(self._status)
        else:
            self._received = self._received[-len(_LAST_CHUNK) :]
            if self._received == _LAST_CHUNK:
                self._done(self._status)

    def _done(self, status: int) -> None:
        self._received, self._left, self._status = b"", None, 0
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(status)


class Pacer:
    """Sends requests at their times and notes how long each took."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes], rate: float) -> None:
        self._address = host, port
        self._requests = requests
        self._rate = rate
        self._idle: list[Client] = []
        self.times_us: list[float] = []
        self.failed = 0

    async def run(self) -> float:
        """Seconds from the first request to the last answer."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        tasks = []
        for number, request in enumerate(self._requests):
            wait_s = start + number / self._rate - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(self._one(request)))
        await asyncio.gather(*tasks)
        duration_s = loop.time() - start
        for client in self._idle:
            client.close()
        return duration_s

    async def _one(self, request: bytes) -> None:
        if self._idle:
            client = self._idle.pop()
        else:
            _, client = await asyncio.get_running_loop().create_connection(Client, *self._address)
        sent = perf_counter()  # uvloop's clock counts milliseconds
        status = await client.ask(request)
        if status == 200:
            self.times_us.append((perf_counter() - sent) * 1e6)
            self._idle.append(client)
        else:
            self.failed += 1
            client.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ascending = sorted(values)
    return ascending[max(0, -int(-len(ascending) * share // 1) - 1)]


def _requests(options: argparse.Namespace, host: str, path: str) -> list[bytes]:
    """All of them ready to send, so that making them takes no time between."""
    prompts = Prompts(options.body_bytes, salt=options.salt, stream=options.chunks > 0)
    fields = ["content-type: application/json"]
    if options.chunks:
        fields += [f"x-bench-chunks: {options.chunks}", f"x-bench-gap-ms: {options.gap_ms:g}"]
    bodies = [prompts.body(number) for number in range(options.requests)]
    head = "\r\n".join((f"POST {path} HTTP/1.1", f"host: {host}", *fields, f"content-length: {len(bodies[0])}", "", ""))
    return [head.encode() + body for body in bodies]


async def _main(options: argparse.Namespace) -> dict[str, float]:
    url = urlsplit(options.url)
    pacer = Pacer(url.hostname or "", url.port or 80, _requests(options, url.netloc, url.path), options.rate)
    duration_s = await pacer.run()
    times = pacer.times_us or [0.0]
    return {
        "requests": len(pacer.times_us),
        "failed": pacer.failed,
        "duration_us": duration_s * 1e6,
        "p50_us": percentile(times, 0.5),
        "p99_us": percentile(times, 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="requests at a fixed rate")
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--gap-ms", type=float, default=0.0)
    parser.add_argument("--salt", default="")
    print(json.dumps(uvloop.run(_main(parser.parse_args()))))


if __name__ == "__main__":
    main()
