"""Explanations of requests that went through a real Envoy to simulated servers, decided by a real EPP process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from epp.sim import SimServer
from tests.support.stack import Stack, eventually, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MODEL = "sim-model"


@pytest_asyncio.fixture(loop_scope="session")
async def stack(tmp_path: Path, sims: list[SimServer]) -> AsyncIterator[Stack]:
    endpoints = [f"{s.name}={s.address}" for s in sims]
    async with start_stack(
        tmp_path, "--explain-header", endpoints=endpoints, subset_hint_header="x-test-subset"
    ) as found:
        await eventually(found.epp.endpoints, lambda es: all(e["metrics_age_s"] is not None for e in es))
        yield found


async def explained(stack: Stack, request_id: str) -> dict[str, Any]:
    """The explanation of a request that has ended."""

    async def ask() -> dict[str, Any]:
        _, text = await stack.epp.page(f"/explain/{request_id}")
        found: dict[str, Any] = json.loads(text)
        return found

    found: dict[str, Any] = await eventually(ask, lambda told: told.get("outcome") is not None)
    return found


async def run_command(stack: Stack, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "epp", "explain", *arguments, "--url", f"http://{stack.epp.metrics}"),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


async def test_a_cached_prefix_is_why_the_others_were_not_chosen(stack: Stack) -> None:
    prompt = "the manual says that a pump has a valve and the valve has a mark " * 30
    await stack.complete(prompt, model=MODEL, x_request_id="first")
    await explained(stack, "first")
    answer = await stack.complete(prompt, model=MODEL, x_request_id="second")

    told = await explained(stack, "second")
    [profile] = told["profiles"]
    total = told["prefixes"][0]["total_blocks"]
    losers = [e for e in profile["endpoints"] if not e["chosen"]]
    assert told["chosen"] == (await explained(stack, "first"))["chosen"]
    assert len(losers) == 2
    assert all(f"prefix blocks 0 vs {total}" in e["why_not"] for e in losers)
    assert all(0 <= e["metrics_age_s"] < 60 for e in told["endpoints"])
    assert told["outcome"]["status"] == 200
    assert told["outcome"]["cached_tokens"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert "valve" not in json.dumps(told)
    predicted, cached = told["outcome"]["predicted_cached_tokens"], told["outcome"]["cached_tokens"]
    assert abs(predicted - cached) < 0.2 * cached


async def test_predictions_that_answers_bear_out_are_shown(stack: Stack) -> None:
    prompt = "a lever has a spring and the spring has a number " * 30
    for name in ("lever-1", "lever-2", "lever-3"):
        await stack.complete(prompt, model=MODEL, x_request_id=name)
        told = await explained(stack, name)
    chosen, outcome = told["chosen"][0]["name"], told["outcome"]

    printed = await run_command(stack, "lever-3")

    assert told["prefixes"][0]["confidence"][chosen] == 1
    assert f"({outcome['cached_tokens']} cached, {outcome['predicted_cached_tokens']} predicted)" in printed
    assert f"proved right, lately (approx-prefix-cache-producer): {chosen} 100%" in printed


async def test_the_command_shows_it_as_a_table(stack: Stack) -> None:
    await stack.complete("hello", model=MODEL, x_request_id="shown")
    told = await explained(stack, "shown")

    by_id, last = await run_command(stack, "shown"), await run_command(stack, "--last")

    assert by_id == last
    assert f"chosen: {told['chosen'][0]['name']} ({told['chosen'][0]['address']})" in by_id
    assert "outcome: status 200, complete" in by_id


async def test_a_trusted_caller_finds_it_in_the_response(stack: Stack) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 2}

    _, asked, _ = await stack.post("/v1/completions", body, x_llm_epp_explain="1", x_request_id="asked")
    _, other, _ = await stack.post("/v1/completions", body)

    told = await explained(stack, "asked")
    line = json.loads(asked["x-llm-epp-explained"])
    assert line["chosen"] == [e["name"] for e in told["chosen"]]
    assert len(line["why_not"]) == 2
    assert "x-llm-epp-explained" not in other


async def test_a_refusal_tells_the_caller_and_the_page_why(stack: Stack) -> None:
    status, headers, _ = await stack.post(
        "/v1/completions",
        {"model": MODEL, "prompt": "hello"},
        x_test_subset="10.9.9.9:1",
        x_llm_epp_explain="1",
        x_request_id="nowhere",
    )

    told = await explained(stack, "nowhere")
    reason = "0/3 endpoints are available: 3 removed by the proxy's subset hint"
    assert status == 503
    assert json.loads(headers["x-llm-epp-explained"])["refused"] == reason
    assert told["refusal"]["reason"] == reason


async def test_nothing_is_kept_when_none_is_wanted(tmp_path: Path, sims: list[SimServer]) -> None:
    async with start_stack(tmp_path, "--explain-decisions=0", endpoints=[sims[0].address]) as stack:
        await stack.complete("hello", model=MODEL)

        status, text = await stack.epp.page("/explain")

        assert status == 404
        assert "--explain-decisions is 0" in text
