"""Who may read the pages of the metrics port: whoever Kubernetes lets `get` the nonResourceURL /metrics.

What was answered is remembered for as long as the Go EPP's filter does. Somebody who sends random tokens can neither make the
picker ask without end nor make it forget those who are let in.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar

from epp.discovery.kubernetes.reviews import User

PATH: Final = "/metrics"

# Of controller-runtime's WithAuthenticationAndAuthorization and the caches of k8s.io/apiserver below it.
TOKEN_S: Final = 60.0
ALLOWED_S: Final = 300.0
DENIED_S: Final = 30.0
MOST_KNOWN: Final = 4096
TIMEOUT_S: Final = 10.0

MOST_ASKING: Final = 16
"""So many tokens of strangers are asked about at the same time; further ones are told to come again."""
_TELL_EVERY_S: Final = 60.0

_log: Final = logging.getLogger("epp.access")
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Reviewer(Protocol):
    """Asks an authority (`epp.discovery.kubernetes.reviews.Reviews`). Anything raised means that it could not be asked."""

    async def authenticate(self, token: str) -> User | None:
        """Whose token it is; None: nobody's."""
        ...

    async def allows(self, user: User, path: str) -> bool:
        """Whether `user` may get `path`."""
        ...


class Verdict(enum.Enum):
    ALLOWED = "allowed"
    UNAUTHORIZED = "no token, or not a valid one"
    FORBIDDEN = "known, but without the right"
    NOT_AUTHENTICATED = "nobody could be asked whose token it is"
    NOT_AUTHORIZED = "nobody could be asked what the user may"
    BUSY = "too many tokens are being asked about"


class Remembered(Generic[_K, _V]):
    """The `most` answers that were used last, each with the time until which it holds."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._answers: OrderedDict[_K, tuple[_V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: _K) -> bool:
        """Whether it was asked about, however long ago."""
        return key in self._answers

    def get(self, key: _K) -> _V | None:
        found = self._answers.get(key)
        if found is None or self._clock() >= found[1]:
            return None
        self._answers.move_to_end(key)
        return found[0]

    def put(self, key: _K, value: _V, for_s: float) -> None:
        self._answers[key] = value, self._clock() + for_s
        self._answers.move_to_end(key)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def forget(self, key: _K) -> None:
        self._answers.pop(key, None)


class AccessGate:
    """One for all pages. `check` may be awaited by many at the same time: the same question is asked once."""

    def __init__(self, reviewer: Reviewer, *, clock: Callable[[], float]) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._salt = os.urandom(32)  # what is kept is of no use to anybody who reads the memory
        self._users: Remembered[bytes, User] = Remembered(MOST_KNOWN, clock)
        self._strangers: Remembered[bytes, bool] = Remembered(MOST_KNOWN, clock)
        self._rights: Remembered[User, bool] = Remembered(MOST_KNOWN, clock)
        self._asking: dict[bytes, asyncio.Task[tuple[Verdict, str]]] = {}
        self._told_s = -_TELL_EVERY_S

    async def check(self, authorization: str) -> tuple[Verdict, str]:
        """By the Authorization header: the verdict, and the name of the user where one is known."""
        token = bearer_token(authorization)
        if not token:
            return Verdict.UNAUTHORIZED, ""
        key = hashlib.sha256(self._salt + token.encode(errors="surrogateescape")).digest()
        if self._strangers.get(key):
            return Verdict.UNAUTHORIZED, ""
        user = self._users.get(key)
        if user is not None and (allowed := self._rights.get(user)) is not None:
            return _by_right(user, allowed)
        task = self._asking.get(key)
        if task is None:
            # Who was known before is asked about in any case: strangers must not keep a scraper out.
            if len(self._asking) >= MOST_ASKING and key not in self._users:
                return Verdict.BUSY, ""
            task = asyncio.get_running_loop().create_task(self._ask(key, token))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)  # others may wait for the same answer

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: bytes, token: str) -> tuple[Verdict, str]:
        user = self._users.get(key)
        if user is None:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    user = await self._reviewer.authenticate(token)
            except Exception as error:
                self._tell("whose token it is", error)
                return Verdict.NOT_AUTHENTICATED, ""
            if user is None:
                self._strangers.put(key, True, TOKEN_S)
                self._users.forget(key)
                return Verdict.UNAUTHORIZED, ""
            self._users.put(key, user, TOKEN_S)
        allowed = self._rights.get(user)
        if allowed is None:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    allowed = await self._reviewer.allows(user, PATH)
            except Exception as error:
                self._tell("what the user may", error)
                return Verdict.NOT_AUTHORIZED, user.name
            self._rights.put(user, allowed, ALLOWED_S if allowed else DENIED_S)
        return _by_right(user, allowed)

    def _tell(self, what: str, error: Exception) -> None:
        now_s = self._clock()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            _log.error("nobody could be asked %s: %s", what, str(error) or type(error).__name__)


def bearer_token(authorization: str) -> str:
    """The token of an Authorization header; empty where there is none."""
    scheme, _, rest = authorization.strip().partition(" ")
    return rest.split(" ")[0] if scheme.lower() == "bearer" else ""


def _by_right(user: User, allowed: bool) -> tuple[Verdict, str]:
    return (Verdict.ALLOWED if allowed else Verdict.FORBIDDEN), user.name
