"""Drives an `Election`: asks the API server what it wants asked, in time, and tells whoever listens when the role changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar, assert_never

from epp.discovery.kubernetes.election import Done, Election, Lease, Read, Rest, Write

_log: Final = logging.getLogger("epp.election")
_T = TypeVar("_T")
_REQUEST_SHARE: Final = 0.5  # of the renew deadline: time for a second try


class LeaseConflict(Exception):
    """The lease has changed, appeared or vanished since it was read."""


class Leases(Protocol):
    """The one Lease object of an election. Anything raised but LeaseConflict means that the outcome is not known."""

    async def read(self) -> Lease | None: ...

    async def write(self, lease: Lease) -> Lease:
        """What was stored. Raises LeaseConflict."""
        ...


def boot_time_s() -> float:
    """Seconds since the start of the machine, those included in which it slept: a lease runs out meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Elector:
    """One candidate at work. `leads` is right at any moment, whether or not `run` gets to run."""

    def __init__(
        self,
        election: Election,
        leases: Leases,
        *,
        clock: Callable[[], float] = boot_time_s,
        changed: Callable[[bool], None] = lambda leads: None,
    ) -> None:
        """`changed` is called with each change of the role, soon after it; `leads` may tell it sooner."""
        self._election = election
        self._leases = leases
        self._clock = clock
        self._changed = changed
        self._led = False
        self._resigned = asyncio.Event()
        self._failing = ""

    def leads(self) -> bool:
        return self._election.leads(self._clock())

    @property
    def holder(self) -> str:
        """Who held the lease when it was last seen; empty for nobody."""
        return self._election.holder

    @property
    def problem(self) -> str:
        """Why the lease cannot be read or renewed at the moment; empty when it can."""
        return self._failing

    def resign(self) -> None:
        """Lead no more from now on; `run` gives the lease up and returns."""
        self._election.resign()
        self._tell()
        self._resigned.set()

    async def run(self) -> None:
        """Stand for election, over and over, until `resign`."""
        while True:
            now_s = self._clock()
            self._tell()
            ask = self._election.next(now_s)
            match ask:
                case Read():
                    await self._read()
                case Write():
                    await self._write(ask.lease)
                case Rest():
                    await self._rest(ask.for_s, now_s)
                case Done():
                    return
                case _:
                    assert_never(ask)

    async def _read(self) -> None:
        try:
            lease = await self._in_time(self._leases.read())
        except Exception as error:
            self._failed(error)
        else:
            self._election.saw(lease, self._clock())
            self._worked()

    async def _write(self, lease: Lease) -> None:
        sent_s = self._clock()
        try:
            stored = await self._in_time(self._leases.write(lease))
        except LeaseConflict:
            self._election.conflicted()
            self._worked()
        except Exception as error:
            self._failed(error)
        else:
            self._election.wrote(stored, sent_s=sent_s, now_s=self._clock())
            self._worked()

    async def _in_time(self, asking: Awaitable[_T]) -> _T:
        async with asyncio.timeout(self._election.timing.renew_deadline_s * _REQUEST_SHARE):
            return await asking

    async def _rest(self, for_s: float, now_s: float) -> None:
        if self._resigned.is_set():
            await asyncio.sleep(for_s)
            return
        left_s = self._election.leads_until_s - now_s
        if left_s > 0:
            for_s = min(for_s, left_s)  # to tell in time that it leads no more
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._resigned.wait()

    def _failed(self, error: Exception) -> None:
        self._election.failed(self._clock())
        reason = str(error) or type(error).__name__
        if reason != self._failing:
            self._failing = reason
            _log.warning("the lease cannot be read or renewed: %s", reason)

    def _worked(self) -> None:
        if self._failing:
            self._failing = ""
            _log.info("the lease can be read and renewed again")

    def _tell(self) -> None:
        leads = self.leads()
        if leads != self._led:
            self._led = leads
            self._changed(leads)
