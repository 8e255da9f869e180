"""The model servers of a benchmark: one process, many ports, answers that are ready before anybody asks.

    python -m tests.bench.upstream --endpoints 8 --page FILE

Prints `{"ports": [...]}` on one line and serves until it is killed. On every port:
GET /metrics             the page; what a Python server says of its own process is another on each one, as on a real one
GET /bench/counts        what was served so far, as JSON
anything else            a fixed completion, or with the request header `x-bench-chunks: N` a stream of N server-sent events,
                         `x-bench-gap-ms` apart
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CHUNKS: Final = re.compile(rb"\r\nx-bench-chunks: *(\d+)", re.IGNORECASE)
_GAP: Final = re.compile(rb"\r\nx-bench-gap-ms: *([\d.]+)", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"
_VARIANTS: Final = 50

_USAGE: Final = {"prompt_tokens": 256, "completion_tokens": 16, "total_tokens": 272}
_COMPLETION: Final = json.dumps(
    {
        "id": "cmpl-0123456789abcdef",
        "object": "text_completion",
        "created": 1767225600,
        "model": "m",
        "choices": [{"index": 0, "text": " and so it went on" * 4, "logprobs": None, "finish_reason": "length"}],
        "usage": _USAGE,
    }
).encode()
_EVENT: Final = (
    b"data: "
    + json.dumps(
        {
            "id": "cmpl-0123456789abcdef",
            "object": "text_completion",
            "created": 1767225600,
            "model": "m",
            "choices": [{"index": 0, "text": " token", "logprobs": None, "finish_reason": None}],
        }
    ).encode()
    + b"\n\n"
)
_LAST_EVENT: Final = (
    b"data: " + json.dumps({"id": "cmpl-0123456789abcdef", "choices": [], "usage": _USAGE}).encode() + b"\n\n"
    b"data: [DONE]\n\n"
)


_OWN_PROCESS: Final = re.compile(
    rb"^((?:process_cpu_seconds_total|process_resident_memory_bytes|python_gc_[a-z_]+_total\{[^}]*\}) )[0-9.e+]+$",
    re.MULTILINE,
)


def page_variants(page: bytes) -> list[bytes]:
    """`page` as an idle server shows it at different times: all but its own memory and CPU is the same."""
    return [_OWN_PROCESS.sub(rb"\g<1>%d.%d" % (100 + i, 37 * i % 100), page) for i in range(_VARIANTS)]


def _answer(body: bytes, content_type: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (content_type, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_JSON_ANSWER: Final = _answer(_COMPLETION, b"application/json")
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT_CHUNK: Final = _chunk(_EVENT)
_END_OF_STREAM: Final = _chunk(_LAST_EVENT) + _LAST_CHUNK


class Counts:
    """What has been served, by all connections together."""

    def __init__(self) -> None:
        self.pages = 0
        self.requests = 0


class ModelServer(asyncio.Protocol):
    """One connection. Requests follow each other; a pipelined one waits until its predecessor is answered."""

    def __init__(self, pages: Sequence[bytes], counts: Counts) -> None:
        self._pages = pages
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._head: bytes | None = None
        self._body_left = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self._received += data
            self._take_head()
        else:
            self._take_body(data)

    def _take_head(self) -> None:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        self._received = b""
        self._head = head
        length = _LENGTH.search(head)
        # -1: until the last chunk. Nothing follows a chunked body here, so its end is the end of what was read.
        self._body_left = -1 if _CHUNKED.search(head) else int(length[1]) if length else 0
        self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        if self._body_left < 0:
            self._received = (self._received + data)[-len(_LAST_CHUNK) :]
            if self._received != _LAST_CHUNK:
                return
            self._received = b""
        else:
            self._body_left -= len(data)
            if self._body_left > 0:
                return
        head, self._head = self._head or b"", None
        self._respond(head)

    def _respond(self, head: bytes) -> None:
        if head.startswith(b"GET /metrics"):
            self._counts.pages += 1
            self._transport.write(self._pages[self._counts.pages % len(self._pages)])
        elif head.startswith(b"GET /bench/counts"):
            self._transport.write(_answer(json.dumps(vars(self._counts)).encode(), b"application/json"))
        else:
            self._counts.requests += 1
            if chunks := _CHUNKS.search(head):
                gap = _GAP.search(head)
                self._transport.write(_STREAM_HEAD)
                self._stream(int(chunks[1]), float(gap[1]) / 1000 if gap else 0.0)
            else:
                self._transport.write(_JSON_ANSWER)

    def _stream(self, left: int, gap_s: float) -> None:
        if left > 1:
            self._transport.write(_EVENT_CHUNK)
            self._timer = self._loop.call_later(gap_s, self._stream, left - 1, gap_s)
        else:
            self._transport.write(_END_OF_STREAM)


async def _serve(endpoints: int, page: bytes) -> None:
    loop = asyncio.get_running_loop()
    counts = Counts()
    answers = [_answer(p, b"text/plain; version=0.0.4; charset=utf-8") for p in page_variants(page)]
    servers = [await loop.create_server(lambda: ModelServer(answers, counts), "127.0.0.1", 0) for _ in range(endpoints)]
    print(json.dumps({"ports": [server.sockets[0].getsockname()[1] for server in servers]}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="the model servers of a benchmark")
    parser.add_argument("--endpoints", type=int, required=True)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    uvloop.run(_serve(options.endpoints, options.page.read_bytes()))


if __name__ == "__main__":
    main()
