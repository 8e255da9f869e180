"""One publisher's stream of numbered messages: what is missing, what is repeated, what to ask for again. No I/O.

Engines number their messages from 0 and keep the latest ones for those that ask again (the replay). Who asks names the first
number wanted; a publisher that was started anew begins at 0 again, and one whose buffer has rolled over sends what is left.
Numbers alone do not show a restart: after a loss the last message that was applied is asked for once more, and compared.

`trust` says how far what was told may be believed:

    NONE     nothing: there is no connection, or messages are missing that a replay may bring
    SOME     what is indexed is there, but there may be more: the beginning is not known
    ALL      what is indexed is what is there

The caller calls in the order in which things happen, and runs the replay that `wanted` asks for.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final, Protocol

from epp_plugins.kv_events.cache import Told
from epp_plugins.kv_events.events import Batch, MalformedBatch, decode

# Messages that come while a replay runs are kept; beyond this they are dropped and become a gap.
MOST_KEPT: Final = 20_000
MOST_KEPT_BYTES: Final = 64 << 20
_LAG_WINDOW_S: Final = 60.0


class Trust(enum.IntEnum):
    """How far what a publisher told may be believed."""

    NONE = 0
    SOME = 1
    ALL = 2


class Cache(Protocol):
    """What the messages are about."""

    def apply(self, batch: Batch) -> Told: ...
    def clear(self) -> None: ...


class Counts:
    """How often things happened, over all publishers."""

    __slots__ = ("applied", "duplicates", "gaps", "malformed", "replays", "replays_failed", "restarts")

    def __init__(self) -> None:
        self.applied = self.duplicates = self.gaps = self.malformed = 0  # messages; gaps: runs of missing ones
        self.replays = self.replays_failed = self.restarts = 0


class Feed:
    """The messages of one publisher. `can_replay`: it has a replay socket. `clock`: seconds, monotonic."""

    def __init__(self, cache: Cache, *, can_replay: bool, clock: Callable[[], float], counts: Counts) -> None:
        self._cache = cache
        self._can_replay = can_replay
        self._clock = clock
        self._counts = counts
        self._last: int | None = None  # number of the last message applied; -1: none, and none is missing
        self._last_payload = b""
        self._last_sent_s = -math.inf
        self._settled = Trust.SOME  # once nothing is missing
        self._connected = False
        self._doubtful = False  # connected again, and no message since
        self._wanted: int | None = None
        self._unverified = False  # the replay has yet to show that the publisher is the same
        self._nothing_came = False  # of the replay
        self._kept: list[tuple[int, bytes]] = []
        self._kept_bytes = 0
        self._delay_s = 0.0
        self._least = (math.inf, math.inf)
        self._window_ends_s = -math.inf

    # --- for the caller ----------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int | None:
        """The first number that a replay has to bring; None when none is due."""
        return self._wanted

    @property
    def trust(self) -> Trust:
        if not self._connected or self._wanted is not None or self._doubtful:
            return Trust.NONE
        return self._settled

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def last(self) -> int | None:
        """Number of the last message applied."""
        return self._last

    @property
    def delay_s(self) -> float:
        """How much later than the quickest of the last minute or two the last live message came: clocks may differ."""
        return self._delay_s

    def connected(self) -> None:
        """Messages come from here on."""
        if self._connected:
            return
        self._connected = True
        if self._can_replay:
            self._ask_again()
        else:
            self._doubtful = self._last is not None

    def disconnected(self) -> None:
        """Messages may be missed from here on."""
        self._connected = False
        self._end_replay()
        self._drop_kept()

    def disbelieve(self) -> None:
        """What was told has proved wrong: what is told from here on is a part of the truth."""
        self._lose()

    def message(self, number: int, payload: bytes) -> None:
        """A live message."""
        if self._wanted is not None:
            self._keep(number, payload)
        else:
            self._live(number, payload, may_ask=True)

    def replayed(self, number: int, payload: bytes) -> bool:
        """A message of the replay. False: the replay is of no use, stop it; `wanted` may ask for another."""
        if self._wanted is None:
            return False
        self._nothing_came = False
        last = self._last
        if self._unverified and last is not None:
            if number == last and payload != self._last_payload:
                self._restarted()
                self._ask(0)
                return False
            if number >= last:
                self._unverified = False
            if number > last:  # the publisher keeps nothing as old as what was applied last
                self._counts.gaps += 1
                self._forget()
        if self._last is not None and number <= self._last:
            return True
        self._apply_next(number, payload)
        return True

    def replay_ended(self) -> None:
        """The publisher has sent all that it keeps."""
        if self._wanted is None:
            return
        self._counts.replays += 1
        if self._unverified:
            # It keeps nothing as late as what was applied last: it counts from 0 again.
            self._restarted()
            self._ask(0)
            return
        if self._nothing_came and self._last is None:
            self._last, self._settled = -1, Trust.ALL  # it has told nothing so far
        self._end_replay()
        self._take_kept(may_ask=True)

    def replay_failed(self) -> None:
        """There is no answer, or no whole one. Whatever is missing stays missing."""
        if self._wanted is None:
            return
        self._counts.replays_failed += 1
        if self._unverified:
            self._forget()
        self._end_replay()
        self._take_kept(may_ask=False)

    # --- live messages -----------------------------------------------------------------------------------------------

    def _live(self, number: int, payload: bytes, *, may_ask: bool) -> None:
        may_ask = may_ask and self._can_replay
        last = self._last
        if last is not None and number > last + 1:
            self._counts.gaps += 1
            if may_ask:
                self._ask_again()
                self._keep(number, payload)
                return
        elif last is not None and number <= last:
            if not self._doubtful and not self._is_newer(payload):
                self._counts.duplicates += 1
                return
            self._restarted()
            if number and may_ask:
                self._ask(0)
                self._keep(number, payload)
                return
        self._doubtful = False
        self._apply_next(number, payload, live=True)

    def _is_newer(self, payload: bytes) -> bool:
        """A repeated number with a later time comes from a publisher that was started anew."""
        try:
            return decode(payload).sent_s > self._last_sent_s
        except MalformedBatch:
            return False

    def _apply_next(self, number: int, payload: bytes, *, live: bool = False) -> None:
        """`number` is later than the last one; what lies between, or before the first, is not known."""
        if self._last is None:
            self._settled = Trust.SOME if number else Trust.ALL
        elif number != self._last + 1:
            self._lose()
        self._apply(number, payload, live=live)

    def _apply(self, number: int, payload: bytes, *, live: bool = False) -> None:
        self._last = number
        self._last_payload = payload
        try:
            batch = decode(payload)
        except MalformedBatch:
            self._counts.malformed += 1
            self._lose()
            return
        self._counts.applied += 1
        self._last_sent_s = batch.sent_s
        if live:
            self._note_delay(batch.sent_s)
        told = self._cache.apply(batch)
        if told is Told.ALL:
            self._settled = Trust.ALL
        elif told is Told.LOST:
            self._settled = Trust.SOME

    def _note_delay(self, sent_s: float) -> None:
        now = self._clock()
        apart = now - sent_s
        if not math.isfinite(apart):
            return
        if now >= self._window_ends_s:
            self._least = (math.inf, self._least[0])
            self._window_ends_s = now + _LAG_WINDOW_S
        self._least = (min(apart, self._least[0]), self._least[1])
        self._delay_s = apart - min(self._least)

    # --- losses ------------------------------------------------------------------------------------------------------

    def _lose(self) -> None:
        """Messages are missing for good: blocks that they said were dropped are not to be believed any more."""
        self._cache.clear()
        self._settled = Trust.SOME

    def _forget(self) -> None:
        """Nothing of what was told is to be believed, and where the numbers go on is not known."""
        self._lose()
        self._last = None
        self._last_payload = b""
        self._last_sent_s = -math.inf
        self._unverified = False

    def _restarted(self) -> None:
        self._counts.restarts += 1
        self._forget()

    # --- replays -----------------------------------------------------------------------------------------------------

    def _ask_again(self) -> None:
        """From the last message that was applied on, which shows whether the publisher is still the same."""
        if self._last is None or self._last < 0:
            self._last = None
            self._ask(0)
            return
        self._ask(self._last)
        self._unverified = True

    def _ask(self, first: int) -> None:
        self._wanted = first
        self._unverified = False
        self._nothing_came = True

    def _end_replay(self) -> None:
        self._wanted = None
        self._unverified = False

    def _keep(self, number: int, payload: bytes) -> None:
        if len(self._kept) < MOST_KEPT and self._kept_bytes + len(payload) <= MOST_KEPT_BYTES:
            self._kept.append((number, payload))
            self._kept_bytes += len(payload)

    def _drop_kept(self) -> None:
        self._kept, self._kept_bytes = [], 0

    def _take_kept(self, *, may_ask: bool) -> None:
        kept = self._kept
        self._drop_kept()
        for number, payload in kept:
            if self._wanted is not None:
                self._keep(number, payload)
            else:
                self._live(number, payload, may_ask=may_ask)
