"""A real vLLM that is killed under load and comes back: requests go elsewhere, then to both, and nothing is left counted."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, eventually, start_stack
from tests.vllm.conftest import Vllm, vllm
from tests.vllm.routing import configuration

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CLIENTS = 4


class Load:
    """Clients that ask as fast as they are answered, each time about another text, until told to stop."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.statuses: list[int] = []
        self.turns = [0] * CLIENTS
        self.stopped = asyncio.Event()

    async def client(self, number: int) -> None:
        for turn in itertools.count():
            if self.stopped.is_set():
                return
            body = {"model": "tiny", "prompt": f"{number} {turn} " + "word " * 200, "max_tokens": 4}
            self.statuses.append(await self.stack.outcome("/v1/completions", body))
            self.turns[number] += 1

    async def answered(self, more: int) -> list[int]:
        """Statuses of the next `more` answers."""
        before = len(self.statuses)

        async def count() -> int:
            return len(self.statuses) - before

        await eventually(count, lambda n: n >= more, deadline_s=240)
        return self.statuses[before:]

    async def under_way_are_over(self) -> None:
        """Return once every request that is under way now has its answer."""
        before = list(self.turns)

        async def over() -> bool:
            return all(now > then for now, then in zip(self.turns, before, strict=True))

        await eventually(over, bool, deadline_s=240)


async def picks(stack: Stack) -> Counter[str]:
    return Counter(record["endpoint"] for record in stack.epp.log() if record.get("endpoint"))


async def test_a_server_killed_under_load_is_left_alone_until_it_is_back(tmp_path: Path) -> None:
    async with vllm(tmp_path / "a") as a, vllm(tmp_path / "b") as b:
        (host_port,) = b.host_ports
        endpoints = [f"a={a.host_ports[0]}", f"b={host_port}"]
        async with start_stack(tmp_path, *configuration("precise", tmp_path), endpoints=endpoints) as stack:
            load = Load(stack)
            async with asyncio.TaskGroup() as clients:
                asking = [clients.create_task(load.client(number)) for number in range(CLIENTS)]
                assert set(await load.answered(40)) == {200}
                await _kill(b)
                await eventually(stack.epp.endpoints, lambda es: _silent(es, "b"), deadline_s=120)
                await load.under_way_are_over()
                assert set(await load.answered(40)) == {200}

                async with vllm(tmp_path / "b again", first_port=int(host_port.rpartition(":")[2])):
                    await eventually(stack.epp.endpoints, lambda es: not _silent(es, "b"), deadline_s=120)
                    before = (await picks(stack))[host_port]

                    async def picked_again() -> int:
                        return (await picks(stack))[host_port] - before

                    await eventually(picked_again, lambda n: n >= 5, deadline_s=120)
                    assert set(await load.answered(20)) == {200}
                    load.stopped.set()
                    await asyncio.gather(*asking)
            await stack.epp.idle()


async def _kill(servers: Vllm) -> None:
    # All at once: a server whose launcher or engine alone has died still takes requests, and lets them wait.
    for pid in [*servers.pids(0), servers.process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(servers.process.wait, 120)


def _silent(endpoints: list[dict[str, Any]], name: str) -> bool:
    (found,) = [e for e in endpoints if e["name"] == name]
    return bool(found["silent"])
