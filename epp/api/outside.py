"""I/O that the service does for plugins, which do none themselves: HTTP calls, ZeroMQ sockets, threads, background work.

`Handle.outside` has it. Whatever fails raises OutsideError or TimeoutError; whatever was begun ends when its owner closes or
cancels it, or with the service.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from epp.api.fleet import Floats

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class OutsideError(Exception):
    """The other side cannot be reached, or breaks off."""


class HttpReply(msgspec.Struct, frozen=True):
    """An answer whose body has been read."""

    status: int
    body: bytes


class Job(Protocol):
    """Background work. Cancelling it twice, or after its end, is harmless."""

    def cancel(self) -> object: ...
    def done(self) -> bool: ...


class SharedWork(Protocol[T_co]):
    """Work whose result any number of requests may await; one that gives up takes nothing from the others."""

    def __await__(self) -> Generator[Any, Any, T_co]: ...


class Subscriber(Protocol):
    """Gets what a subscription brings. Its calls must not block."""

    def connected(self) -> None:
        """A publisher is connected; messages that it published earlier do not come."""
        ...

    def disconnected(self) -> None:
        """It is not any more; the subscription tries again by itself."""
        ...

    def received(self, messages: Sequence[list[bytes]], *, more: bool) -> None:
        """Frames of each message, in order. `more`: others may wait to be read; where none does, no messages follow, and not
        `more`."""
        ...


class Subscription(Protocol):
    def close(self) -> None:
        """End it at once; nothing is received any more. Closing it twice is harmless."""
        ...


class Dialogue(Protocol):
    """A ZeroMQ DEALER socket."""

    async def send(self, frames: Sequence[bytes]) -> None: ...

    def receive(self, *, idle_s: float) -> AsyncIterator[list[bytes]]:
        """Message by message. TimeoutError when none comes for `idle_s` seconds."""
        ...


class TrainingStatus(msgspec.Struct, frozen=True):
    """How training goes. Counts are since it began; `outcomes` counts what came of fits, by name; `last` says what came of the
    last one of each target, and why."""

    is_running: bool = False
    pid: int = 0
    restarts: int = 0
    sent: int = 0  # samples
    samples: int = 0  # held for training at the last fit
    refused: int = 0  # samples that cannot be true
    fits: int = 0
    last_fit_s: float = math.nan  # how long it took
    last_reason: str = ""
    outcomes: Mapping[str, int] = {}
    last: Mapping[str, str] = {}


class Training(Protocol):
    """A process that learns to predict latencies. Samples and models are those of `epp_predictor`. Nothing here waits."""

    @property
    def status(self) -> TrainingStatus: ...

    def send(self, sample: Floats) -> None: ...

    def poll(self) -> bytes | None:
        """A model that was published since the last call, encoded. Call it once a second or so: it also starts the process
        again when it has died."""
        ...

    def close(self) -> None:
        """End the process. Closing it twice is harmless."""
        ...


class Outside(Protocol):
    """What `Handle.outside` offers."""

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> Job:
        """Run `work` beside requests. What it raises is logged under `name`."""
        ...

    def shared(self, work: Coroutine[Any, Any, T], *, name: str) -> SharedWork[T]:
        """Begin `work`, whose result, or what it raises, whoever awaits gets."""
        ...

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
        """One request to an `http` or `https` URL; redirects are not followed."""
        ...

    def subscribe(self, to: Subscriber, address: str, *, bind: bool = False, topic: bytes = b"") -> Subscription:
        """A ZeroMQ SUB socket that connects to `address` (`tcp://10.0.0.1:5557`), or binds it.

        Raises OutsideError for an address that cannot be.
        """
        ...

    def dialogue(self, address: str) -> AbstractAsyncContextManager[Dialogue]: ...

    def in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """The result of `work`, which takes too long for the event loop and touches nothing that others use."""
        ...

    def train(self, in_use: bytes = b"") -> Training:
        """Start a training process. `in_use`: the model that its candidates have to beat, encoded; empty: there is none.

        Raises OutsideError where none can be started, or `in_use` is no model.
        """
        ...


class Nowhere:
    """An outside that cannot be reached: for checking configurations, and for tests. Background work does not begin."""

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> Job:
        work.close()
        return _Done()

    def shared(self, work: Coroutine[Any, Any, T], *, name: str) -> SharedWork[T]:
        work.close()
        raise OutsideError("there is no outside")

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
        raise OutsideError(f"{url} cannot be reached from here")

    def subscribe(self, to: Subscriber, address: str, *, bind: bool = False, topic: bytes = b"") -> Subscription:
        return _Done()

    def dialogue(self, address: str) -> AbstractAsyncContextManager[Dialogue]:
        raise OutsideError(f"{address} cannot be reached from here")

    async def in_thread(self, work: Callable[[], T]) -> T:
        return work()

    def train(self, in_use: bytes = b"") -> Training:
        raise OutsideError("no process can be started from here")


class _Done:
    """Something that is over before it begins."""

    def cancel(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def close(self) -> None:
        """There is nothing to close."""
