"""A Lease as an API server keeps it, behind a network that delays, loses and repeats nothing by itself: tests say when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from epp.discovery.kubernetes.election import Lease
from epp.discovery.kubernetes.elector import LeaseConflict


class Unreachable(Exception):
    """No answer: what was asked may have been done or not."""


@dataclass
class LeaseServer:
    """`stored` is called after each write that was accepted, with what is stored now."""

    lease: Lease | None = None
    up: bool = True
    stored: Callable[[Lease], None] = lambda lease: None
    writes: int = 0

    def read(self) -> Lease | None:
        return self.lease

    def write(self, lease: Lease) -> Lease:
        current = "" if self.lease is None else self.lease.version
        if lease.version != current:
            raise LeaseConflict
        if self.lease is not None and msgspec.structs.replace(lease, version=current) == self.lease:
            return self.lease  # as the real one: what changes nothing gets no new version
        self.writes += 1
        self.lease = msgspec.structs.replace(lease, version=str(self.writes))
        self.stored(self.lease)
        return self.lease

    def delete(self) -> None:
        self.lease = None


@dataclass
class Network:
    """What lies between one candidate and the server. Chances are shares of all requests, delays are seconds one way."""

    server: LeaseServer
    rng: random.Random = field(default_factory=random.Random)
    longest_delay_s: float = 0.0
    lost_requests: float = 0.0
    lost_answers: float = 0.0

    async def read(self) -> Lease | None:
        await self._go(self.lost_requests)
        found = self.server.read()
        await self._go(self.lost_answers)
        return found

    async def write(self, lease: Lease) -> Lease:
        # A request that is on its way arrives though its sender has given up waiting.
        return await asyncio.shield(asyncio.ensure_future(self._write(lease)))

    async def _write(self, lease: Lease) -> Lease:
        await self._go(self.lost_requests)
        stored = self.server.write(lease)
        await self._go(self.lost_answers)
        return stored

    async def _go(self, lost: float) -> None:
        if self.longest_delay_s:
            await asyncio.sleep(self.rng.uniform(0.0, self.longest_delay_s))
        if not self.server.up or self.rng.random() < lost:
            raise Unreachable
