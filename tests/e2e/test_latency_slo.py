"""Requests with latency SLOs through a real Envoy: the one that is in time gets them, and what nobody can keep is refused.

Predictions are told, so that every answer follows from them. docs/latency-slo.md, which is run, shows learnt ones.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from epp.extproc.exchange import BodyMode
from epp.sim import SimServer
from tests.support.docs import ROOT
from tests.support.stack import Stack, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

BODY: Final = {"model": "sim-model", "prompt": "how long?", "max_tokens": 2}
OBJECTIVE: Final = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: impatient, annotations: {llm-d.ai/slo-ttft-ms: "100"}}
"""


def told(config: dict[str, Any], predictions: dict[str, Any]) -> dict[str, Any]:
    """`config` with predictions that are known in place of the predictor, and without explorations."""

    def certain(plugin: dict[str, Any]) -> dict[str, Any]:
        if plugin["type"] == "predicted-latency-producer":
            return {"type": "tests.support.predictions:ToldPredictions", "parameters": predictions}
        if plugin["type"] == "slo-headroom-tier-filter":
            return plugin | {"parameters": {"epsilonExploreNeg": 0}}
        return plugin

    return config | {"plugins": [certain(plugin) for plugin in config["plugins"]]}


@pytest_asyncio.fixture(loop_scope="session")
async def stack(tmp_path: Path, sims: list[SimServer]) -> AsyncIterator[Stack]:
    """First tokens after 5 s, 1 s and 0.4 s, as predicted; nine of ten within 20 % of that."""
    shipped = yaml.safe_load((ROOT / "config" / "latency-slo.yaml").read_text())
    ttft_ms = {server.address: ms for server, ms in zip(sims, (5000, 1000, 400), strict=True)}
    config, objects = tmp_path / "epp.yaml", tmp_path / "objects"
    config.write_text(yaml.safe_dump(told(shipped, {"ttftMs": ttft_ms}), sort_keys=False))
    objects.mkdir()
    (objects / "impatient.yaml").write_text(OBJECTIVE)
    endpoints = [f"{s.name}={s.address}" for s in sims]
    flags = (f"--config-file={config}", f"--objects={objects}")
    async with start_stack(tmp_path, *flags, endpoints=endpoints, env={"PYTHONPATH": str(ROOT)}) as found:
        yield found


async def ask(stack: Stack, **headers: str) -> tuple[int, dict[str, str], bytes]:
    status, answered, body = await stack.post("/v1/completions", BODY, **headers)
    return status, {k.lower(): v for k, v in answered.items()}, body


@pytest.mark.parametrize("header", ["x-slo-ttft-ms", "x-llm-d-slo-ttft-ms"])
async def test_requests_go_to_the_endpoint_that_is_quick_enough(stack: Stack, header: str) -> None:
    answers = [await ask(stack, **{header: "500"}) for _ in range(5)]

    assert [(status, headers.get("x-sim-name")) for status, headers, _ in answers] == [(200, "sim-2")] * 5


async def test_what_nobody_can_keep_is_refused_with_its_reason(stack: Stack) -> None:
    status, headers, body = await ask(stack, x_slo_ttft_ms="100")

    assert status == 429
    assert headers["x-llm-d-request-dropped-reason"] == "rejected-slo-unattainable"
    assert headers["retry-after"] == "1"
    assert b"no endpoint can meet the latency asked for: ttft 100 ms (at best 320 ms)" in body


async def test_what_the_interval_does_not_rule_out_is_tried(stack: Stack) -> None:
    status, _, _ = await ask(stack, x_slo_ttft_ms="321")

    assert status == 200


async def test_without_an_slo_the_quickest_gets_the_request(stack: Stack) -> None:
    status, headers, body = await ask(stack)

    assert (status, headers["x-sim-name"]) == (200, "sim-2")
    assert json.loads(body)["usage"]["completion_tokens"] == 2


async def test_the_slo_of_the_objective_holds_unless_the_request_has_one(stack: Stack) -> None:
    by_objective, _, _ = await ask(stack, x_llm_d_inference_objective="impatient")
    by_header, _, _ = await ask(stack, x_llm_d_inference_objective="impatient", x_slo_ttft_ms="500")

    assert (by_objective, by_header) == (429, 200)


@pytest.mark.parametrize(
    "mode", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED, BodyMode.STREAMED], ids=lambda m: m.name
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "events"])
async def test_latencies_are_in_the_usage_of_answers_that_ask(
    tmp_path: Path, sims: list[SimServer], mode: BodyMode, stream: bool
) -> None:
    """Of a predictor that has learned nothing yet: what is measured is told, what is predicted is null."""
    body = BODY | {"stream": stream, "max_tokens": 5}
    if stream:
        body |= {"stream_options": {"include_usage": True}}
    async with start_stack(
        tmp_path, "--enable-latency-predictor", endpoints=[sims[0].address], response_body=mode
    ) as found:
        status, _, plain = await found.post("/v1/completions", body)
        asked_status, _, asked = await found.post("/v1/completions", body, x_llm_epp_latency="1")

    assert (status, asked_status) == (200, 200)
    assert b"ttft_ms" not in plain
    usage = usages(asked)[-1]
    assert usage["completion_tokens"] == 5
    assert usage["predicted_ttft_ms"] is None
    assert usage.keys() >= {
        "ttft_ms",
        "tpot_observations_ms",
        "predicted_tpot_observations_ms",
        "avg_predicted_tpot_ms",
    }
    if stream:
        assert usage["ttft_ms"] > 0
        assert asked.endswith(b"data: [DONE]\n\n")


def usages(text: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in text.splitlines()]
    found = [json.loads(line).get("usage") for line in lines if line.startswith(b"{")]
    return [usage for usage in found if usage]
