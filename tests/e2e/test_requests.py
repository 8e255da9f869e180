"""Requests through a real Envoy, picked by a real EPP process, to real llama.cpp servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from epp.demo.llamacpp import LlamaServer
from tests.e2e.conftest import LLAMA_MODEL
from tests.support.stack import Stack, eventually, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory, llama: list[LlamaServer]) -> AsyncIterator[Stack]:
    endpoints = [f"s{i}={server.address}" for i, server in enumerate(llama)]
    async with start_stack(
        tmp_path_factory.mktemp("requests"),
        endpoints=endpoints,
        fresh_upstream_connections=True,
        subset_hint_header="x-test-subset",
    ) as found:
        yield found


async def test_an_answer_comes_back_and_the_pick_is_logged(stack: Stack) -> None:
    answer = await stack.complete("hello there", model=LLAMA_MODEL, x_request_id="plain-1")

    logged = await stack.epp.logged("plain-1")
    assert answer["object"] == "text_completion"
    assert logged["status"] == 200
    assert logged["termination"] == "complete"
    assert logged["completion_tokens"] == 4
    assert logged["candidates"] == 4


async def test_a_streamed_answer_comes_event_by_event_with_usage(stack: Stack) -> None:
    body = {
        "model": LLAMA_MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 6,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    status, headers, text = await stack.post("/v1/chat/completions", body, x_request_id="stream-1")

    logged = await stack.epp.logged("stream-1")
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert text.endswith(b"data: [DONE]\n\n")
    assert logged["completion_tokens"] == 6
    assert 0 < logged["ttft_ms"] <= logged["duration_ms"]


async def test_equal_prefixes_go_to_the_same_server_and_hit_its_cache(stack: Stack) -> None:
    prefix = "the manual says that a pump has a valve and the valve has a mark and " * 30
    ids = [f"prefix-{i}" for i in range(4)]

    answers = [
        await stack.complete(f"{prefix} question {i}", model=LLAMA_MODEL, x_request_id=request_id)
        for i, request_id in enumerate(ids)
    ]

    lines = [await stack.epp.logged(request_id) for request_id in ids]
    assert len({line["endpoint"] for line in lines}) == 1
    assert lines[0]["prefix_blocks"] == 0
    assert all(line["prefix_blocks"] >= line["prefix_total"] - 1 > 0 for line in lines[1:])
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in answers]
    assert all(c > 0.8 * a["usage"]["prompt_tokens"] for c, a in zip(cached[1:], answers[1:], strict=True))


async def test_a_rewritten_model_name_is_restored_in_the_answer(stack: Stack) -> None:
    answer = await stack.complete("hi", model="what-i-asked-for", x_gateway_model_name_rewrite=LLAMA_MODEL)

    assert answer["model"] == "what-i-asked-for"


async def test_a_rewritten_model_name_is_restored_in_every_event(stack: Stack) -> None:
    body = {"model": "mine", "prompt": "hi", "max_tokens": 3, "stream": True}

    _, _, text = await stack.post("/v1/completions", body, x_llm_d_model_name_rewrite=LLAMA_MODEL)

    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith(b"data: {")]
    assert events
    assert {event["model"] for event in events} == {"mine"}


async def test_the_subset_hint_is_obeyed(stack: Stack, llama: list[LlamaServer]) -> None:
    chosen = llama[2].address
    ids = [f"subset-{i}" for i in range(5)]

    for request_id in ids:
        await stack.complete(f"any text {request_id}", model=LLAMA_MODEL, x_test_subset=chosen, x_request_id=request_id)

    assert {(await stack.epp.logged(request_id))["endpoint"] for request_id in ids} == {chosen}


async def test_a_subset_that_nobody_is_in_is_503(stack: Stack) -> None:
    body = {"model": LLAMA_MODEL, "prompt": "hi"}

    status, headers, text = await stack.post("/v1/completions", body, x_test_subset="10.9.9.9:8000")

    assert status == 503
    assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
    assert b"failed to find endpoint candidates" in text


async def test_a_get_without_a_body_is_routed(stack: Stack) -> None:
    async with stack.session.get(f"{stack.url}/v1/models") as response:
        models = await response.json()

    assert response.status == 200
    assert response.headers["x-went-into-resp-headers"] == "true"
    assert models["data"][0]["id"] == LLAMA_MODEL


async def test_invalid_json_is_400_and_the_next_request_is_unharmed(stack: Stack) -> None:
    status, _, text = await stack.post("/v1/completions", b'{"model": "m", "prompt": ')

    assert status == 400
    assert text.startswith(b"inference error: BadRequest - error unmarshaling request bodyMap: ")
    assert await stack.complete("still here", model=LLAMA_MODEL)


async def test_a_request_without_a_model_is_400(stack: Stack) -> None:
    status, _, text = await stack.post("/v1/completions", {"prompt": "hi"})

    assert (status, text) == (400, b"inference error: BadRequest - model not found in request body")


async def test_a_megabyte_prompt_arrives_and_is_answered_by_the_server(stack: Stack) -> None:
    # It is longer than the model's context: the server itself says so, which shows that it got it.
    status, _, text = await stack.post(
        "/v1/completions", {"model": LLAMA_MODEL, "prompt": "word " * 210_000}, x_request_id="megabyte"
    )

    logged = await stack.epp.logged("megabyte")
    assert status == 400
    assert b"exceed" in text
    assert logged["status"] == 400


async def test_a_client_that_goes_away_leaves_no_count_behind(stack: Stack) -> None:
    body = {"model": LLAMA_MODEL, "prompt": "count to a thousand", "max_tokens": 12_000, "stream": True}
    headers = {"x-request-id": "abort-1", "content-type": "application/json"}

    response = await stack.session.post(f"{stack.url}/v1/completions", data=json.dumps(body), headers=headers)
    await response.content.readany()
    busy = await stack.epp.in_flight()
    response.close()

    assert busy > 0
    await stack.epp.idle()
    assert (await stack.epp.logged("abort-1"))["termination"] == "client-disconnect"
    assert await stack.epp.metric("inference_objective_running_requests") == 0


async def test_many_requests_at_once_are_spread_and_all_answered(stack: Stack) -> None:
    before = await stack.epp.metric("inference_objective_request_total")

    await asyncio.gather(
        *(stack.complete(f"{i} is a number and {i * 7} as well", model=LLAMA_MODEL) for i in range(40))
    )

    await stack.epp.idle()
    assert await stack.epp.metric("inference_objective_request_total") - before == 40
    recent = [line for line in stack.epp.log() if line.get("prompt_tokens")][-40:]
    assert len({line["endpoint"] for line in recent}) == 4


async def test_metrics_of_real_servers_are_read_and_their_age_is_visible(stack: Stack) -> None:
    def are_fresh(endpoints: list[dict[str, Any]]) -> bool:
        return all(e["metrics_age_s"] is not None and e["metrics_age_s"] < 2 for e in endpoints)

    await eventually(stack.epp.endpoints, are_fresh)
    assert await stack.epp.metric("inference_pool_ready_pods") == 4


async def test_the_debug_page_shows_requests_but_no_prompts(stack: Stack) -> None:
    await stack.complete("a-secret-word", model=LLAMA_MODEL, x_request_id="page-1")
    await stack.epp.logged("page-1")

    _, text = await stack.epp.page("/debug/requests")

    assert "page-1" in text
    assert "a-secret-word" not in text
    assert "a-secret-word" not in stack.epp.child.stderr_path.read_text()


async def test_readiness_is_ok_while_serving(stack: Stack, tmp_path: Path) -> None:
    assert await stack.epp.page("/readyz") == (200, "ok\n")
    assert await stack.epp.page("/healthz") == (200, "ok\n")
