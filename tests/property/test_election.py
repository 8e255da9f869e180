"""Several candidates, one lease, and everything that can go wrong between them: there are never two leaders.

Clocks run at rates that differ by up to a third, requests take seconds and arrive though nobody waits for them any more,
answers are lost, the server goes away, candidates are killed and others come.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.discovery.kubernetes.election import Election, Lease
from epp.discovery.kubernetes.elector import Elector
from tests.support.leases import LeaseServer, Network
from tests.support.virtual_time import run_virtually

STORM_S = 200.0
CALM_S = 40.0  # a lease runs out by the slowest clock, and a few tries


class Candidate:
    def __init__(self, name: str, network: Network, rng: random.Random) -> None:
        rate, offset_s = rng.uniform(0.87, 1.15), rng.uniform(0.0, 1e6)
        loop = asyncio.get_running_loop()
        self.name = name
        self.network = network
        election = Election(name, rng=rng)
        self.elector = Elector(election, network, clock=lambda: offset_s + rate * loop.time())
        self.task = asyncio.ensure_future(self.elector.run())


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.server = LeaseServer(stored=self.check)
        self.candidates: list[Candidate] = []
        self.most_delay_s = self.rng.choice((0.0, 0.1, 2.0, 8.0))
        self.lost = self.rng.choice((0.0, 0.05, 0.3))
        self.born = 0
        self.wrong: list[str] = []  # a candidate would take what is raised for an answer of the server

    def join(self) -> None:
        self.born += 1
        network = Network(self.server, self.rng, self.most_delay_s, self.lost, self.lost)
        self.candidates.append(Candidate(f"replica-{self.born}", network, self.rng))

    def leaders(self) -> list[str]:
        return [c.name for c in self.candidates if c.elector.leads()]

    def check(self, lease: Lease) -> None:
        """Who leads does so because of a write: at each of them nobody else may lead, and nobody begins later without one."""
        others = [name for name in self.leaders() if name != lease.holder]
        if others:
            self.wrong.append(f"{lease.holder!r} takes the lease while {others} lead")

    async def storm(self, loop: asyncio.AbstractEventLoop) -> None:
        while loop.time() < STORM_S:
            await asyncio.sleep(self.rng.uniform(0.1, 8.0))
            assert not self.wrong, self.wrong[0]
            assert len(self.leaders()) <= 1
            match self.rng.randrange(8):
                case 0:
                    self.server.up = False
                case 1 | 2:
                    self.server.up = True
                case 3 if self.candidates:  # kill -9
                    self.candidates.pop(self.rng.randrange(len(self.candidates))).task.cancel()
                case 4 if self.candidates:  # SIGTERM
                    self.rng.choice(self.candidates).elector.resign()
                case 5 | 6 if len(self.candidates) < 6:
                    self.join()
                case _:
                    pass

    async def calm(self) -> None:
        self.server.up = True
        for candidate in self.candidates:
            candidate.network.longest_delay_s = candidate.network.lost_requests = candidate.network.lost_answers = 0.0
        self.most_delay_s = self.lost = 0.0
        self.join()
        await asyncio.sleep(CALM_S)


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32))
def test_there_are_never_two_leaders_and_in_calm_times_there_is_one(seed: int) -> None:
    async def play() -> list[str]:
        world = World(seed)
        for _ in range(world.rng.randint(2, 4)):
            world.join()
        await world.storm(asyncio.get_running_loop())
        await world.calm()
        led = world.leaders()
        for candidate in world.candidates:
            candidate.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await candidate.task
        return led

    assert len(run_virtually(play())) == 1


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_a_lease_deleted_by_hand_makes_two_leaders_until_the_next_renewal_only(seed: int) -> None:
    """Nothing can prevent that: who deletes a lease says that it is free. But the one before hears it at its next renewal."""

    async def play() -> int:
        rng = random.Random(seed)
        server = LeaseServer()
        candidates = [Candidate(f"replica-{i}", Network(server, rng, 0.05), rng) for i in range(3)]
        await asyncio.sleep(30.0)
        server.delete()
        await asyncio.sleep(6.0)
        leading = sum(c.elector.leads() for c in candidates)
        for candidate in candidates:
            candidate.task.cancel()
        await asyncio.gather(*(c.task for c in candidates), return_exceptions=True)
        return leading

    assert run_virtually(play()) == 1
