"""Blocks that a pick lets an endpoint hold before its engine has told of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from epp_plugins.kv_events.index import BlockIndex, Source


class Promise(msgspec.Struct):
    """What one pick has promised. `over`: it has been taken back."""

    until_s: float
    added: list[tuple[int, int]]
    over: bool = False


class Speculation:
    """Each promise counts for `lifetime_s` of `clock`, or until it is taken back."""

    def __init__(self, index: BlockIndex, clock: Callable[[], float], lifetime_s: float) -> None:
        self._index = index
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._promises: deque[Promise] = deque()

    def promise(self, chains: Iterable[tuple[Iterable[Source], list[int]]]) -> Promise | None:
        """Let the sources hold the chains; None where none of it is new."""
        added: list[tuple[int, int]] = []
        for sources, chain in chains:
            added += self._index.expect(sources, chain)
        if not added:
            return None
        promise = Promise(self._clock() + self._lifetime_s, added)
        self._promises.append(promise)
        return promise

    def expire(self) -> None:
        now_s = self._clock()
        while self._promises and (self._promises[0].over or self._promises[0].until_s <= now_s):
            self.take_back(self._promises.popleft())

    def take_back(self, promise: Promise) -> None:
        if not promise.over:
            promise.over = True
            self._index.forget(promise.added)
