"""Where the rule leaves a choice to chance, both EPPs make each one as often as the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.differential.configurations import SAMPLES, Config, simple
from tests.differential.fleet import Load
from tests.differential.pair import Pair, pair
from tests.differential.talk import Ask, ask_one, completion

pytestmark = pytest.mark.e2e
_ASKED: Final = 600
_TOO_FAR: Final = 5.5
"""Standard deviations: with 600 requests, a difference of 0.11 where a share is 0.5; by chance once in 300,000 runs."""

_KV: Final = tuple(Load(kv=kv) for kv in (0.9, 0.7, 0.4, 0.0))

CHANCES: Final[dict[str, tuple[Config, tuple[Load, ...], Mapping[int, float]]]] = {
    "random-picker": (simple("random-picker", ("queue-scorer", 1)), _KV, dict.fromkeys(range(4), 1 / 4)),
    "weighted-random-picker": (
        simple("weighted-random-picker", ("kv-cache-utilization-scorer", 1)),
        _KV,
        {0: 0.05, 1: 0.15, 2: 0.3, 3: 0.5},
    ),
    "weighted-random-picker, all zero": (
        simple("weighted-random-picker", ("kv-cache-utilization-scorer", 1)),
        (Load(kv=1.0),) * 4,
        dict.fromkeys(range(4), 1 / 4),
    ),
    "ties of max-score-picker": (
        simple(("queue-scorer", 1)),
        (Load(queued=2), Load(queued=9), Load(queued=2), Load(queued=2)),
        {0: 1 / 3, 1: 0.0, 2: 1 / 3, 3: 1 / 3},
    ),
    "S12": (SAMPLES["S12"], _KV, dict.fromkeys(range(4), 1 / 4)),
}
"""Configuration, fleet, and the share of each endpoint."""


@pytest.mark.parametrize("name", CHANCES)
async def test_chance_is_the_same(name: str, go_epp: Path, tmp_path: Path) -> None:
    config, loads, shares = CHANCES[name]
    async with pair(tmp_path, go_epp, config, ({},) * len(loads)) as both:
        await both.fleet.show(loads)
        picks = await asyncio.gather(_picks(both, both.go), _picks(both, both.ours))

    for who, counted in zip(("Go", "ours"), picks, strict=True):
        for endpoint, share in shares.items():
            allowed = _TOO_FAR * sqrt(_ASKED * share * (1 - share))
            assert abs(counted[endpoint] - _ASKED * share) <= allowed, (who, endpoint, dict(counted))


async def _picks(both: Pair, channel: grpc.aio.Channel) -> Counter[int]:
    """How often each endpoint, by its number, was taken. Asked one by one: nothing is in flight, which would break ties."""
    numbers = {host_port: i for i, host_port in enumerate(both.fleet.host_ports)}
    asks = [both.named(Ask(body=completion(f"{n}"), answer=())) for n in range(_ASKED)]
    return Counter([numbers[(await ask_one(channel, ask)).destination] for ask in asks])
