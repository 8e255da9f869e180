"""Who leads, by one Lease object. Pure: what was seen and when goes in, what to ask of the API server comes out.

The rules are client-go's, so that replicas of the Go EPP and of this one can share a lease. No clock is ever compared with
another machine's: the times in the object are for people to read. What counts is how long ago, by one's own clock, the object
was seen to change:

- A candidate may take the lease when nobody holds it, or when it has not changed for as long as its holder said it is good for,
  counted from when this candidate *saw* the change.
- A leader leads for `renew_deadline_s` from when it *sent* its last successful write. That is less than what it tells the
  others to wait, so it has stopped before anybody may take the lease, even when clocks run at rates that differ by a third.

A write names the version that it replaces, so of two only one succeeds. What has become of a write that was not answered is not
known: the object is read again, and until a later write succeeds nobody leads because of it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import msgspec

_TICK: Final = timedelta(microseconds=1)  # what a Lease's times resolve
_SPREAD_S: Final = 0.2  # candidates that see a lease run out at the same time do not all write at once
_RELEASED_FOR_S: Final = 1  # a Lease without a duration is not valid


class Timing(msgspec.Struct, frozen=True):
    """How long a lease is good for others, for how long its holder leads without renewing it, and how often it tries to."""

    lease_duration_s: int = 15
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0


GO_TIMING: Final = Timing()  # controller-runtime's


class Lease(msgspec.Struct, frozen=True):
    """What matters of a Lease object. `holder` is empty when nobody holds it; `version` is empty before it is stored."""

    holder: str
    duration_s: int
    acquired: datetime
    renewed: datetime
    transitions: int = 0
    version: str = ""

    @classmethod
    def from_object(cls, object: Mapping[str, Any]) -> Lease:
        """Of what the API server sends. What is missing is as in a lease that nobody holds."""
        spec = object.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_s=spec.get("leaseDurationSeconds") or 0,
            acquired=_moment(spec.get("acquireTime")),
            renewed=_moment(spec.get("renewTime")),
            transitions=spec.get("leaseTransitions") or 0,
            version=object["metadata"]["resourceVersion"],
        )

    def to_object(self, *, namespace: str, name: str) -> dict[str, Any]:
        metadata = {"namespace": namespace, "name": name}
        if self.version:
            metadata["resourceVersion"] = self.version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.duration_s,
                "acquireTime": _text(self.acquired),
                "renewTime": _text(self.renewed),
                "leaseTransitions": self.transitions,
            },
        }


class Read(msgspec.Struct, frozen=True):
    """Read the lease, then tell `saw`."""


class Write(msgspec.Struct, frozen=True):
    """Store the lease, as a new object where it has no version. Then tell `wrote` or `conflicted`."""

    lease: Lease


class Rest(msgspec.Struct, frozen=True):
    """Ask again after so many seconds."""

    for_s: float


class Done(msgspec.Struct, frozen=True):
    """The lease is given up, and nothing is left to do."""


Ask: TypeAlias = Read | Write | Rest | Done


class Election:
    """One candidate. `next` says what to do; `saw`, `wrote`, `conflicted` or `failed` tell what came of it.

    All times are of the caller's monotonic clock, in seconds. It should go on while the machine sleeps.
    """

    def __init__(
        self,
        identity: str,
        timing: Timing = GO_TIMING,
        *,
        rng: random.Random,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self.timing = timing
        self._random = rng
        self._wall = wall
        self._lease: Lease | None = None  # as last seen
        self._known = False  # whether it is what the server has, as far as anybody can know
        self._changed_s = -math.inf  # when it was last seen to have changed
        self._leads_until_s = -math.inf
        self._next_s = -math.inf
        self._may_hold = False  # a write may have been stored
        self._resigning = False

    def leads(self, now_s: float) -> bool:
        """Whether this candidate may act as the leader at this very moment."""
        return now_s < self._leads_until_s and not self._resigning

    @property
    def leads_until_s(self) -> float:
        """When it ceases to lead unless a write succeeds before."""
        return -math.inf if self._resigning else self._leads_until_s

    @property
    def holder(self) -> str:
        """Who held the lease when it was last seen; empty for nobody."""
        return self._lease.holder if self._lease is not None else ""

    def next(self, now_s: float) -> Ask:
        """What to do now."""
        if self._resigning and not self._may_hold:
            return Done()
        if now_s < self._next_s:
            return Rest(self._next_s - now_s)
        if not self._known or now_s < self._free_from_s():
            return Read()
        if self._resigning:
            return Write(self._released())
        self._may_hold = True
        return Write(self._taken())

    def saw(self, lease: Lease | None, now_s: float) -> None:
        """The lease as it was read; None: there is none. `now_s`: when the answer came."""
        if lease is None or self._lease is None or lease.version != self._lease.version:
            self._changed_s = now_s
        self._lease, self._known = lease, True
        self._may_hold = lease is not None and lease.holder == self.identity
        if not self._may_hold:
            self._leads_until_s = -math.inf  # somebody has deleted it, or changed it by hand
        free_s = self._free_from_s()
        if now_s < free_s:
            retry_s = now_s + self._jittered(self.timing.retry_period_s, 1.0, 1.5)
            # The holder may be gone: be there when the lease has run out.
            self._next_s = min(retry_s, free_s + self._random.uniform(0.0, _SPREAD_S))

    def wrote(self, lease: Lease, *, sent_s: float, now_s: float) -> None:
        """The write that was sent at `sent_s` has succeeded; `lease` is what the server has stored."""
        self._lease, self._known = lease, True
        self._changed_s = now_s
        self._may_hold = lease.holder == self.identity
        if self._may_hold:
            self._leads_until_s = max(self._leads_until_s, sent_s + self.timing.renew_deadline_s)
        self._next_s = now_s + self._jittered(self.timing.retry_period_s, 0.8, 1.2)

    def conflicted(self) -> None:
        """The write was refused because the lease has changed, appeared or vanished since it was read."""
        self._known = False

    def failed(self, now_s: float) -> None:
        """A read or a write has failed. Of a write it is not known whether it was stored."""
        self._known = False
        self._next_s = now_s + self._jittered(self.timing.retry_period_s, 0.8, 1.2)

    def resign(self) -> None:
        """Lead no more, and give the lease up if it is held: `next` says how, and then Done."""
        self._resigning = True
        self._next_s = -math.inf

    # --- what to write -----------------------------------------------------------------------------------------------

    def _free_from_s(self) -> float:
        """From when on this candidate may write itself into the lease as it was last seen."""
        lease = self._lease
        if lease is None or lease.holder in ("", self.identity):
            return -math.inf
        return self._changed_s + lease.duration_s

    def _taken(self) -> Lease:
        now = self._wall()
        before = self._lease
        mine = Lease(self.identity, self.timing.lease_duration_s, acquired=now, renewed=now)
        if before is None:
            return mine
        # A write that changes nothing is not stored, and others would not see it: time has to pass, whatever the wall says.
        now = max(now, before.renewed + _TICK)
        if before.holder == self.identity:
            return msgspec.structs.replace(
                mine,
                acquired=before.acquired,
                renewed=now,
                transitions=before.transitions,
                version=before.version,
            )
        return msgspec.structs.replace(
            mine, acquired=now, renewed=now, transitions=before.transitions + 1, version=before.version
        )

    def _released(self) -> Lease:
        lease = self._lease
        assert lease is not None
        now = max(self._wall(), lease.renewed + _TICK)
        return Lease(
            "", _RELEASED_FOR_S, acquired=now, renewed=now, transitions=lease.transitions, version=lease.version
        )

    def _jittered(self, seconds: float, least: float, most: float) -> float:
        return seconds * self._random.uniform(least, most)


def _moment(text: str | None) -> datetime:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
