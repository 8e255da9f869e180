"""An outside that follows a script: HTTP answers by path, calls that are noted."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from epp.api import Fleet, Handle, HttpReply, Nowhere
from tests.support.plugins import Clock, make_handle

T = TypeVar("T")


def json_reply(value: object, status: int = 200) -> HttpReply:
    return HttpReply(status, json.dumps(value).encode())


class Scripted(Nowhere):
    """`answers` maps the path of a URL to what it gets: a reply, an error to raise, or a function of the request's body."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[tuple[str, Any]] = []
        self.threads = 0

    async def http(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        max_bytes: int = 64 << 20,
    ) -> HttpReply:
        path = "/" + url.split("/", 3)[3]
        given = json.loads(body) if body else None
        self.asked.append((path, given))
        answer = self.answers.get(path, HttpReply(404, b"{}"))
        if callable(answer):
            answer = answer(given)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, HttpReply)
        return answer

    async def in_thread(self, work: Callable[[], T]) -> T:
        self.threads += 1
        return work()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def handle_with(
    outside: Nowhere, fleet: Fleet | None = None, *, name: str = "it", clock: Clock | None = None
) -> Handle:
    return msgspec.structs.replace(make_handle(fleet, name=name, clock=clock), outside=outside)


def finish(waiting: Awaitable[None] | None) -> None:
    """Run what a plugin would wait for; nothing in a script really waits."""
    if waiting is None:
        return
    assert inspect.iscoroutine(waiting)
    try:
        waiting.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something else")
