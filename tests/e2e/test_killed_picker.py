"""A picker that is killed under load, at a moment when it has requests and answers in its hands: which of them are lost.

The process is stopped first, so that it certainly holds some, and then killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from epp.demo.processes import Children
from epp.envoy.options import BodyMode
from epp.sim import SimServer
from tests.support.gateway import Gateway, Pool, Rule, start_gateway
from tests.support.stack import Epp, eventually, start_epp
from tests.support.steady_load import SteadyLoad, steady_load

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

RATE = 100.0
STREAMED = 3  # of ten answers: those that are under way when the picker dies
MODEL = "sim-model"
RECEIVED = r"^http\.traffic\.downstream_rq_total$"


class Killed(NamedTuple):
    """A load, and how many of its requests had been sent when."""

    load: SteadyLoad
    stopped: int
    stopped_s: float
    held: int
    """Envoy had received these, and the stopped picker answered none."""
    forgotten: int
    """Envoy had been told that the picker's address is gone, and used it no more."""


@asynccontextmanager
async def pickers(folder: Path, sims: list[SimServer], pool: Pool) -> AsyncIterator[tuple[Gateway, list[Epp]]]:
    """A gateway in front of `pool`, of which nothing is said yet, and two pickers for it."""
    endpoints = [sim.address for sim in sims]
    async with Children(folder / "logs") as children:
        two = await asyncio.gather(
            *(start_epp(children, endpoints=endpoints, name=name) for name in ("first", "second"))
        )
        async with start_gateway(children, folder / "gateway", [pool], [Rule({pool.name: 1})]) as gateway:
            await gateway.set_pool(pool, endpoints)
            yield gateway, two


async def kill_the_first(gateway: Gateway, pool: Pool, two: list[Epp], *, known: int) -> Killed:
    """Under load, while Envoy knows the addresses of so many pickers; it learns of the death a moment later."""
    first, second = two
    await gateway.set_picker(pool, [epp.grpc for epp in two[:known]])
    async with steady_load(gateway.url, rate=RATE, model=MODEL, streamed=STREAMED) as load:
        await load.until_answered(50)
        os.kill(first.child.pid, signal.SIGSTOP)
        stopped, stopped_s = load.sent, asyncio.get_running_loop().time()
        await asyncio.sleep(0.3)
        load.held_back = True  # else one that came late would be counted in another's place
        held = load.sent
        await eventually(lambda: gateway.envoy.stats(RECEIVED), lambda found: sum(found.values()) == held)
        os.kill(first.child.pid, signal.SIGKILL)
        load.held_back = False
        await asyncio.sleep(0.3)
        await gateway.set_picker(pool, [second.grpc])
        forgotten = load.sent
        await load.until_answered(50)
    return Killed(load, stopped, stopped_s, held, forgotten)


@pytest.mark.parametrize("response_body", [BodyMode.STREAMED, BodyMode.NONE])
async def test_nothing_is_lost_where_envoy_keeps_what_it_sends_and_may_do_without(
    tmp_path: Path, sims: list[SimServer], response_body: BodyMode
) -> None:
    """What `epp envoy-config --failure-mode open` writes."""
    pool = Pool("pool", fail_open=True, request_body=BodyMode.BUFFERED, response_body=response_body)
    async with pickers(tmp_path, sims, pool) as (gateway, two):
        outcome = await kill_the_first(gateway, pool, two, known=1)

    assert outcome.held > outcome.stopped
    assert outcome.load.failures == []
    assert outcome.load.answered == outcome.load.sent


async def test_nothing_is_lost_where_another_picker_is_asked(tmp_path: Path, sims: list[SimServer]) -> None:
    """Though no request may pass without a decision, and bodies are streamed to the picker; those of answers are not.

    But for a request that the picker had decided when it was stopped: its answer's headers cannot be shown to another one.
    """
    pool = Pool("pool", response_body=BodyMode.NONE, picker_retries=3)
    async with pickers(tmp_path, sims, pool) as (gateway, two):
        outcome = await kill_the_first(gateway, pool, two, known=2)
        again = await gateway.envoy.stats(r"cluster\.pool-epp\.upstream_rq_retry_success$")

    assert max((failure.number for failure in outcome.load.failures), default=-1) < outcome.stopped
    assert sum(again.values()) > 0


async def test_nothing_is_lost_to_a_picker_that_says_nothing_more(tmp_path: Path, sims: list[SimServer]) -> None:
    """As when its machine is gone: nobody says that the connection is closed."""
    body = {"request_body": BodyMode.BUFFERED, "response_body": BodyMode.STREAMED}
    pool = Pool("pool", fail_open=True, picker_keepalive_s=1.0, **body)
    async with pickers(tmp_path, sims, pool) as (gateway, (first, _)):
        await gateway.set_picker(pool, [first.grpc])
        async with steady_load(gateway.url, rate=RATE, model=MODEL, streamed=STREAMED) as load:
            await load.until_answered(50)
            os.kill(first.child.pid, signal.SIGSTOP)
            await load.until_answered(100)
        os.kill(first.child.pid, signal.SIGKILL)  # it would not hear that it shall end

    assert load.failures == []
    assert load.answered == load.sent


async def test_what_was_streamed_to_a_killed_picker_is_lost_and_nothing_else(
    tmp_path: Path, sims: list[SimServer]
) -> None:
    """Envoy keeps no copy of what it sends in FULL_DUPLEX_STREAMED, so it cannot go on by itself even where it may."""
    pool = Pool("pool", fail_open=True)
    async with pickers(tmp_path, sims, pool) as (gateway, two):
        outcome = await kill_the_first(gateway, pool, two, known=1)

    lost = {failure.number for failure in outcome.load.failures}
    assert lost >= set(range(outcome.stopped, outcome.held))
    assert max(lost) < outcome.forgotten
    assert min(failure.ended_s for failure in outcome.load.failures) > outcome.stopped_s
    print(
        f"{len(lost)} of {outcome.load.sent} requests were lost; {outcome.forgotten - outcome.stopped} had been sent to it"
    )
