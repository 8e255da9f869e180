"""Follows one publisher of KV cache events: its subscription, its replays, what they made of its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from epp.api import Handle, Job, OutsideError, Subscription
from epp_plugins.kv_events.cache import PublishedCache
from epp_plugins.kv_events.feed import Counts, Feed, Trust

_NUMBER_BYTES: Final = 8
_END: Final = b"\xff" * _NUMBER_BYTES  # the number after the last message of a replay
_IDLE_S: Final = 2.0
_ATTEMPTS: Final = 3
_FIRST_PAUSE_S: Final = 0.5
_COOL_DOWN_S: Final = 30.0
_AT_ONCE: Final = 20  # messages of a replay between two turns of the event loop


class Address(msgspec.Struct, frozen=True):
    """Where a publisher publishes, and where it replays (empty: it does not)."""

    events: str
    replay: str = ""


class Publisher:
    """Implements `epp.api.Subscriber` for one rank of one endpoint. `changed` is called when its state may have changed."""

    def __init__(
        self,
        handle: Handle,
        cache: PublishedCache,
        *,
        name: str,
        address: Address,
        counts: Counts,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.address = address
        self.cache = cache
        self.feed = Feed(cache, can_replay=bool(address.replay), clock=handle.clock, counts=counts)
        self.lagging = False
        self._max_lag_s = 0.0
        self._handle = handle
        self._counts = counts
        self._changed = changed
        self._subscription: Subscription | None = None
        self._replay: Job | None = None
        self._no_replay_before_s = 0.0
        self._closed = False

    def start(self, *, max_lag_s: float) -> None:
        """Subscribe. Raises OutsideError for an address that cannot be."""
        self._max_lag_s = max_lag_s
        # Whatever the topic: this socket is connected to one publisher.
        self._subscription = self._handle.outside.subscribe(self, self.address.events)

    def follow(self, *, max_lag_s: float) -> None:
        """Be handed what another subscription brings, by calls of `received`."""
        self._max_lag_s = max_lag_s
        self.feed.connected()

    def close(self) -> None:
        self._closed = True
        if self._subscription is not None:
            self._subscription.close()
        if self._replay is not None:
            self._replay.cancel()

    @property
    def is_connected(self) -> bool:
        return self.feed.is_connected

    @property
    def trust(self) -> Trust:
        return Trust.NONE if self.lagging else self.feed.trust

    # --- what the subscription brings --------------------------------------------------------------------------------

    def connected(self) -> None:
        self.feed.connected()
        self._after()

    def disconnected(self) -> None:
        self._handle.log.warning("KV events of %s: the connection is gone", self.name)
        self.feed.disconnected()
        self._after()

    def received(self, messages: Sequence[list[bytes]], *, more: bool) -> None:
        for frames in messages:
            if len(frames) != 3 or len(frames[1]) != _NUMBER_BYTES:
                self._counts.malformed += 1
                continue
            self.feed.message(int.from_bytes(frames[1], "big"), frames[2])
        self.lagging = more and self.feed.delay_s > self._max_lag_s
        self._after()

    def _after(self) -> None:
        if self.feed.wanted is not None and (self._replay is None or self._replay.done()) and not self._closed:
            if self._handle.clock() < self._no_replay_before_s:
                self.feed.replay_failed()
            else:
                name = f"replay of KV events of {self.name}"
                self._replay = self._handle.outside.spawn(self._ask_again(), name=name)
        self._changed()

    # --- replays -----------------------------------------------------------------------------------------------------

    async def _ask_again(self) -> None:
        failures = 0
        while self.feed.wanted is not None:
            try:
                await self._run(self.feed.wanted)
            except (OutsideError, TimeoutError) as error:
                failures += 1
                if failures < _ATTEMPTS:
                    await self._handle.sleep(_FIRST_PAUSE_S * failures)
                    continue
                why = str(error) or f"nothing came for {_IDLE_S:g} s"
                self._handle.log.warning("KV events of %s cannot be replayed: %s", self.name, why)
                self._no_replay_before_s = self._handle.clock() + _COOL_DOWN_S
                self.feed.replay_failed()
            self._changed()

    async def _run(self, first: int) -> None:
        """One replay, from `first` to its end, or until it is of no use."""
        async with self._handle.outside.dialogue(self.address.replay) as dialogue:
            await dialogue.send((b"", first.to_bytes(_NUMBER_BYTES, "big")))
            messages = 0
            async for frames in dialogue.receive(idle_s=_IDLE_S):
                number, payload = frames[-2:] if len(frames) >= 3 else (b"", b"")
                if number == _END or (len(number) == _NUMBER_BYTES and not payload):
                    self.feed.replay_ended()
                    return
                if len(number) != _NUMBER_BYTES:
                    self._counts.malformed += 1
                    continue
                if not self.feed.replayed(int.from_bytes(number, "big"), payload):
                    return
                messages += 1
                if messages % _AT_ONCE == 0:
                    await self._handle.sleep(0)
