"""When a watcher asks again: the pace of its attempts, in virtual time, at an API server that fails."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import msgspec
import pytest

from epp.discovery.kubernetes import resources
from epp.discovery.kubernetes.collection import Collection
from epp.discovery.kubernetes.errors import ApiError, TooManyRequests, Unavailable
from epp.discovery.kubernetes.objects import Pod
from epp.discovery.kubernetes.resources import Resource
from epp.discovery.kubernetes.watcher import Timing, Watcher
from tests.support.virtual_time import run_virtually

PODS = resources.pods("default")


class FailingApi:
    """Every request fails in the same way."""

    def __init__(self, error: ApiError) -> None:
        self.error = error
        self.asked_at_s: list[float] = []

    async def page(self, *_: Any, **__: Any) -> Any:
        self.asked_at_s.append(asyncio.get_running_loop().time())
        raise self.error


def pauses_s(error: ApiError, *, seed: int, during_s: float) -> list[float]:
    """Between one attempt and the next."""
    api = FailingApi(error)

    async def find() -> Resource:
        return PODS

    async def work() -> None:
        watcher = Watcher(
            api,  # type: ignore[arg-type]
            Collection("Pod", msgspec.json.Decoder(Pod)),
            find,
            lambda resource, changes: None,
            clock=asyncio.get_running_loop().time,
            rng=random.Random(seed),
            timing=Timing(),
            settled=lambda: None,
        )
        running = asyncio.create_task(watcher.run())
        await asyncio.sleep(during_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(work())
    return [after - before for before, after in itertools.pairwise(api.asked_at_s)]


def test_a_server_that_is_away_is_asked_ever_more_seldom_and_never_in_step() -> None:
    """Minutes without an API server: neither a storm of requests, nor all pickers at once when it is back."""
    mine, another = (pauses_s(Unavailable("away"), seed=seed, during_s=600.0) for seed in (1, 2))

    longest_s = [min(15.0, 0.2 * 2**n) for n in range(len(mine))]
    assert all(at_most / 2 <= pause <= at_most for pause, at_most in zip(mine, longest_s, strict=True))
    assert len(mine) < 100
    assert not set(mine) & set(another)


@pytest.mark.parametrize("asked_s", [1.0, 30.0])
def test_a_server_that_says_how_long_to_wait_is_not_asked_sooner_and_not_by_all_at_once(asked_s: float) -> None:
    mine, another = (pauses_s(TooManyRequests("busy", asked_s), seed=seed, during_s=10 * asked_s) for seed in (1, 2))

    assert all(asked_s <= pause <= 1.25 * asked_s for pause in mine)
    assert not set(mine) & set(another)
