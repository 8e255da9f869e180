"""The configuration changes under load, behind a real Envoy: nobody notices but the decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from epp.sim import SimServer
from tests.support.files import replace
from tests.support.stack import Stack, eventually, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- {type: prefix-cache-scorer}\n"
ONE = f"{HEAD}- {{type: queue-scorer}}\n"
# Another producer of in-flight load: what the one of ONE has counted in, it has to count out as well.
OTHER = (
    f"{HEAD}- {{type: kv-cache-utilization-scorer}}\n- {{type: no-hit-lru-scorer}}\n"
    "- {type: inflight-load-producer, parameters: {addEstimatedOutputTokens: true, outputRatio: 3}}\n"
)
BROKEN = (
    "plugins: [",
    f"{HEAD}- {{type: no-such-type}}\n",
    "",
    f"{HEAD}- {{type: queue-scorer, parameters: {{a: 1}}}}\n",
)
WRITES = 20


async def reloads(stack: Stack, result: str = "") -> float:
    labels = {"result": result} if result else {}
    return await stack.epp.metric("llm_epp_config_reloads_total", **labels)


async def more_than(least: float, ask: Callable[[], Awaitable[float]]) -> None:
    """Return once `ask` gives more."""
    await eventually(ask, lambda count: bool(count > least))


class Load:
    """Clients that ask again as soon as they are answered, plainly and streamed in turn."""

    def __init__(self, stack: Stack, clients: int) -> None:
        self.failed: list[tuple[int, bytes]] = []
        self.done = 0
        self._stack = stack
        self._ended = False
        self._tasks = [asyncio.create_task(self._ask(i)) for i in range(clients)]

    async def _ask(self, client: int) -> None:
        turn = 0
        while not self._ended:
            turn += 1
            body = {
                "model": "sim-model",
                "prompt": f"client {client} asks " * 40,
                "max_tokens": 20,
                "stream": turn % 2 == 0,
            }
            status, _, text = await self._stack.post("/v1/completions", body, x_request_id=f"load-{client}-{turn}")
            self.done += 1
            if status != 200:
                self.failed.append((status, text[:200]))

    async def count(self) -> float:
        return self.done

    async def end(self) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)


async def test_twenty_changes_under_load_fail_no_request_and_leave_no_count(
    sims: list[SimServer], tmp_path: Path
) -> None:
    path = tmp_path / "epp.yaml"
    path.write_text(ONE)
    prompt = "a long beginning that is worth a cache " * 40

    async with start_stack(tmp_path, f"--config-file={path}", endpoints=[s.address for s in sims]) as stack:
        await stack.complete(prompt, model="sim-model", x_request_id="before")
        load = Load(stack, clients=8)
        for i in range(WRITES):
            content = BROKEN[i // 4 % len(BROKEN)] if i % 4 == 3 else (OTHER, ONE)[i % 2]
            seen = await reloads(stack)
            replace(path, content)
            await more_than(seen, lambda: reloads(stack))
            await more_than(load.done + 8, load.count)
        await stack.complete(prompt, model="sim-model", x_request_id="after")
        await load.end()

        assert load.failed == []
        await stack.epp.idle()
        assert await stack.epp.metric("inference_objective_running_requests") == 0
        assert await reloads(stack, "refused") >= WRITES // 4
        assert await reloads(stack, "applied") >= WRITES // 4
        await stack.epp.logged("after")
        lines = {line["id"]: line for line in stack.epp.log()}
        assert lines["after"]["prefix_blocks"] > 0
        assert lines["after"]["endpoint"] == lines["before"]["endpoint"]
        assert len({line["config"] for line in lines.values()}) == 2
        status, text = await stack.epp.page("/readyz")
        assert status == 200
        assert text.startswith("ok\nconfiguration: ")
        assert stack.epp.log("unexpected error while handling a request") == []
        assert await stack.epp.metric("llm_epp_plugin_errors_total") == 0
