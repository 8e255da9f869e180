"""Objectives and rewrites from files, behind a real Envoy."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from epp.sim import SimConfig, SimServer, StepCost
from tests.support.files import replace
from tests.support.stack import eventually, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer}
- {type: utilization-detector, parameters: {queueDepthThreshold: 2, metricsStalenessThreshold: 30s}}
"""
BATCH = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: pool}}
"""
CANARY = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary}
spec:
  poolRef: {name: pool}
  rules:
  - matches: [{model: {value: food}}]
    targets: [{modelRewrite: food-v2, weight: 30}, {modelRewrite: food-v1, weight: 70}]
  - matches: [{model: {value: food}, headers: [{name: X-Beta, value: "yes"}]}]
    targets: [{modelRewrite: food-v3}]
"""


async def test_a_sheddable_request_is_refused_while_the_servers_are_full(tmp_path: Path) -> None:
    (tmp_path / "epp.yaml").write_text(CONFIG)
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "batch.yaml").write_text(BATCH)
    flags = (f"--config-file={tmp_path}/epp.yaml", f"--objects={tmp_path}/objects", "--pool-name=pool")
    slow = SimConfig(max_num_seqs=1, cost=StepCost(speed=0.1))
    body = {"model": "sim-model", "prompt": "hi", "max_tokens": 1}
    async with SimServer(slow) as sim, start_stack(tmp_path, *flags, endpoints=[sim.address]) as stack:

        async def batch() -> tuple[int, str, bytes]:
            status, headers, text = await stack.post("/v1/completions", body, x_llm_d_inference_objective="batch")
            return status, headers.get("x-llm-d-request-dropped-reason", ""), text

        async with aiohttp.ClientSession(sim.url) as direct:
            long = body | {"max_tokens": 5000}
            busy = [asyncio.create_task(direct.post("/v1/completions", json=long)) for _ in range(5)]
            # Asked any earlier, the request would be let in and wait behind the long ones.
            await eventually(stack.epp.endpoints, lambda es: es[0]["columns"]["waiting_requests"] >= 2)
            refused = await batch()
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
        served = await eventually(batch, lambda answer: answer[0] != 429)

        assert refused[:2] == (429, "rejected-saturated")
        assert refused[2].endswith(b"system saturated, sheddable request dropped")
        assert served[0] == 200
        assert {line["priority"] for line in stack.epp.log()} == {-1}
        await stack.epp.idle()


async def test_a_weighted_rewrite_splits_and_the_asked_name_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    (folder / "canary.yaml").write_text(CANARY)
    models = ("food-v1", "food-v2", "food-v3")
    config = SimConfig(loras=models, max_loras=3, cost=StepCost(speed=100), request_log=2000)
    flags = (f"--objects={folder}", "--pool-name=pool")
    async with SimServer(config) as sim, start_stack(tmp_path, *flags, endpoints=[sim.address]) as stack:
        clients = asyncio.Semaphore(16)

        async def ask(**headers: str) -> str:
            async with clients:
                answer = await stack.complete("hi", model="food", **headers)
            return str(answer["model"])

        def served() -> Counter[str]:
            found = Counter(json.loads(r.body)["model"] for r in sim.requests if r.body)
            sim.requests.clear()
            return found

        names = await asyncio.gather(*(ask() for _ in range(600)))
        split = served()
        await asyncio.gather(*(ask(x_beta="yes") for _ in range(10)))
        beta = served()
        replace(folder / "canary.yaml", CANARY.replace("weight: 70", "weight: 1").replace("30}", "1000000}"))
        await eventually(lambda: asyncio.sleep(0, stack.epp.log(f"objects of {folder}")), lambda lines: len(lines) == 2)
        await asyncio.gather(*(ask() for _ in range(50)))

        assert set(names) == {"food"}
        assert set(split) == {"food-v1", "food-v2"}
        assert abs(split["food-v2"] / 600 - 0.3) < 0.1  # more than five standard deviations
        assert beta == {"food-v3": 10}
        assert served()["food-v2"] >= 49
        assert await stack.epp.metric("inference_extension_model_rewrite_decisions_total", model_name="food") == 660
