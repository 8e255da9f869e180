"""Response bodies of all, some and no requests, with a real Envoy: what the EPP sees differs, what it counts does not."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from epp.envoy.options import BodyMode
from epp.envoy.routes import FRACTION_KEY
from epp.sim import SimConfig, SimServer, StepCost
from tests.support.stack import Stack, eventually, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SMALL = {"model": "sim-model", "prompt": "hello", "max_tokens": 4}
STREAMED = SMALL | {"stream": True, "stream_options": {"include_usage": True}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def endpoints() -> AsyncIterator[list[str]]:
    """Three simulated servers for all tests here."""
    async with AsyncExitStack() as running:
        servers = [SimServer(SimConfig(name=f"sim-{i}", cost=StepCost(speed=20))) for i in range(3)]
        yield [(await running.enter_async_context(server)).address for server in servers]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sampling(tmp_path_factory: pytest.TempPathFactory, endpoints: list[str]) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("sampling")
    async with start_stack(folder, endpoints=endpoints, response_body_fraction=0.3) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def sampled(sampling: Stack) -> Stack:
    """An Envoy that sends response bodies of 30 % of requests, whatever an earlier test made of it."""
    await set_fraction(sampling, "")
    return sampling


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bodiless(tmp_path_factory: pytest.TempPathFactory, endpoints: list[str]) -> AsyncIterator[Stack]:
    """An Envoy that sends no response bodies."""
    folder = tmp_path_factory.mktemp("bodiless")
    async with start_stack(folder, endpoints=endpoints, response_body=BodyMode.NONE) as stack:
        yield stack


async def send(stack: Stack, count: int) -> list[dict[str, Any]]:
    """Send `count` requests, every other one streamed, twenty at a time, and return what the EPP logged about them."""
    places = asyncio.Semaphore(20)
    ids = {str(uuid.uuid4()) for _ in range(count)}

    async def one(request_id: str, body: dict[str, Any]) -> None:
        async with places:
            status, _, text = await stack.post("/v1/completions", body, x_request_id=request_id)
            assert status == 200, text

    await asyncio.gather(*(one(i, body) for i, body in zip(ids, itertools.cycle((SMALL, STREAMED)), strict=False)))

    async def logged() -> list[dict[str, Any]]:
        return [r for r in stack.epp.log() if r["id"] in ids]

    found: list[dict[str, Any]] = await eventually(logged, lambda records: len(records) == count)
    return found


async def totals(stack: Stack) -> list[float]:
    """Requests, those whose duration is known, and those whose tokens are known."""
    names = ("request_total", "request_duration_seconds_count", "input_tokens_count")
    return [await stack.epp.metric(f"inference_objective_{name}") for name in names]


async def set_fraction(stack: Stack, value: str) -> None:
    url = f"http://{stack.envoy.admin_address}/runtime_modify"
    async with stack.session.post(url, params={FRACTION_KEY: value}) as response:
        assert response.status == 200


async def begin(stack: Stack, request_id: str) -> aiohttp.ClientResponse:
    """A streamed answer of which some events have come, and no more will: it lasts until somebody gives up."""
    headers = {"x-request-id": request_id, "x-sim-hang": "2"}
    response = await stack.session.post(f"{stack.url}/v1/completions", json=STREAMED, headers=headers)
    assert await response.content.readany()
    return response


async def requests_in_flight(stack: Stack) -> float:
    columns = [e["columns"] for e in await stack.epp.endpoints()]
    return float(sum(c["in_flight_requests"] for c in columns))


async def messages_of_an_answer(stack: Stack, tokens: int) -> int:
    """How many messages Envoy sends the EPP about one request whose answer is a stream of so many tokens."""

    async def sent() -> int:
        (count,) = (await stack.envoy.stats(r"ext_proc\.stream_msgs_sent$")).values()
        return count

    before = await sent()
    body = STREAMED | {"max_tokens": tokens}
    status, _, text = await stack.post("/v1/completions", body, x_request_id=f"long-{tokens}")
    assert status == 200
    assert text.endswith(b"data: [DONE]\n\n")
    return await sent() - before


async def test_the_sample_shows_its_usage_and_all_requests_are_accounted_for(sampled: Stack) -> None:
    before = await totals(sampled)

    records = await send(sampled, 200)

    with_usage = [r for r in records if "prompt_tokens" in r]
    # Binomial with a standard deviation of 6.5: ±30 fails once in some 300 000 runs.
    assert 30 <= len(with_usage) <= 90
    assert all(r["completion_tokens"] == 4 for r in with_usage)
    assert {r["id"] for r in records if "ttft_ms" in r} == {r["id"] for r in with_usage}
    assert {r["termination"] for r in records} == {"complete"}
    assert {r["status"] for r in records} == {200}
    assert all(r["duration_ms"] > 0 for r in records)
    await sampled.epp.idle()
    added = [after - earlier for after, earlier in zip(await totals(sampled), before, strict=True)]
    assert added == [200, 200, len(with_usage)]
    assert await sampled.epp.metric("inference_objective_running_requests") == 0


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("100", 40),
        ("0", 0),
        ('{"numerator":1000000,"denominator":"MILLION"}', 40),
        # Not a fraction: Envoy wants whole per cent, and takes anything else for nothing.
        ("0.25", 0),
    ],
)
async def test_the_fraction_is_changed_while_envoy_runs(sampled: Stack, value: str, seen: int) -> None:
    await set_fraction(sampled, value)

    records = await send(sampled, 40)

    assert sum("prompt_tokens" in r for r in records) == seen


async def test_requests_in_flight_are_counted_whether_or_not_they_are_in_the_sample(sampled: Stack) -> None:
    begun = [await begin(sampled, f"hung-{i}") for i in range(10)]

    during = await requests_in_flight(sampled)
    for response in begun:
        response.close()

    assert during == 10
    await sampled.epp.idle()


async def test_without_bodies_an_answer_costs_the_same_however_long_it_is(bodiless: Stack) -> None:
    costs = [await messages_of_an_answer(bodiless, tokens) for tokens in (1, 1000)]

    # Request headers, one or two pieces of the request body, perhaps its empty end, response headers.
    assert max(costs) <= 5
    record = await bodiless.epp.logged("long-1000")
    assert "ttft_ms" not in record
    assert "prompt_tokens" not in record


async def test_with_bodies_a_long_answer_costs_more(sampled: Stack) -> None:
    await set_fraction(sampled, "100")

    assert await messages_of_an_answer(sampled, 1000) > 10


async def test_without_bodies_requests_in_flight_are_counted_until_the_answer_has_ended(bodiless: Stack) -> None:
    _, known, _ = await totals(bodiless)
    ended = await send(bodiless, 20)
    begun = [await begin(bodiless, f"hung-{i}") for i in range(5)]

    during = await requests_in_flight(bodiless)
    first = begun.pop()
    first.close()
    after_one = await eventually(lambda: requests_in_flight(bodiless), lambda n: n < during)
    for response in begun:
        response.close()

    assert (during, after_one) == (5, 4)
    assert all(r["duration_ms"] > 0 for r in ended)
    await bodiless.epp.idle()
    assert await bodiless.epp.metric("inference_objective_running_requests") == 0
    assert (await totals(bodiless))[1] >= known + 20


async def test_without_bodies_a_client_that_leaves_before_the_answer_releases_its_request(bodiless: Stack) -> None:
    headers = {"x-request-id": "silent", "x-sim-hang": "true"}
    asking = asyncio.create_task(
        bodiless.session.post(f"{bodiless.url}/v1/completions", data=json.dumps(STREAMED), headers=headers)
    )
    during = await eventually(lambda: requests_in_flight(bodiless), lambda n: n == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert during == 1
    await bodiless.epp.idle()
    assert (await bodiless.epp.logged("silent"))["duration_ms"] > 0


@pytest.mark.parametrize(("mode", "unread"), [(BodyMode.FULL_DUPLEX_STREAMED, 2), (BodyMode.NONE, 0)])
async def test_bodies_that_nothing_reads_are_counted_and_warned_of(
    tmp_path: Path, endpoints: list[str], mode: BodyMode, unread: int
) -> None:
    config = Path(__file__).parents[2] / "config" / "payload-agnostic.yaml"
    async with start_stack(tmp_path, f"--config-file={config}", endpoints=endpoints, response_body=mode) as stack:
        await send(stack, 2)

        (needed,) = stack.epp.log("bodies")
        warned = [line for line in stack.epp.child.stderr_path.read_text().splitlines() if "that nothing reads" in line]
        assert (needed["request_body_mode"], needed["response_body_mode"]) == ("NONE", "NONE")
        assert await bodies(stack) == [unread, 0]
        assert len(warned) == (1 if unread else 0)


async def test_bodies_that_are_read_are_counted_as_such(sampled: Stack) -> None:
    await set_fraction(sampled, "100")
    unread, read = await bodies(sampled)

    await send(sampled, 5)

    assert await bodies(sampled) == [unread, read + 5]


async def bodies(stack: Stack) -> list[float]:
    """Response bodies that Envoy sent for nobody, and for somebody."""
    return [await stack.epp.metric("llm_epp_response_bodies_total", read=read) for read in ("false", "true")]
