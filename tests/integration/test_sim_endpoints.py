"""The simulator's endpoints over loopback: shapes as vLLM 0.32 answers them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
import xxhash
from prometheus_client.parser import text_string_to_metric_families

from epp.sim import SimConfig, SimServer, StepCost

FAST = StepCost(speed=20)


@pytest.fixture
async def server() -> AsyncIterator[SimServer]:
    async with SimServer(SimConfig(cost=FAST, loras=("lora-a", "lora-b"))) as server:
        yield server


@pytest.fixture
async def client(server: SimServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as client:
        yield client


async def post(client: aiohttp.ClientSession, path: str, **body: object) -> dict[str, object]:
    async with client.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, object] = await response.json()
        return answer


async def events(client: aiohttp.ClientSession, path: str, **body: object) -> list[str]:
    """The data of every server-sent event."""
    async with client.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        text = await response.text()
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (the simulator has no event for it)
            await asyncio.sleep(0.001)


async def gauges(client: aiohttp.ClientSession) -> dict[str, float]:
    """The metrics page: sum over the series of each name."""
    async with client.get("/metrics") as response:
        text = await response.text()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


async def test_a_completion_has_as_many_tokens_as_asked_for(client: aiohttp.ClientSession) -> None:
    answer = await post(client, "/v1/completions", prompt="x" * 100, max_tokens=7)

    assert answer["object"] == "text_completion"
    assert len(answer["choices"][0]["text"].split()) == 7  # type: ignore[index]
    assert answer["choices"][0]["finish_reason"] == "length"  # type: ignore[index]
    assert answer["usage"] == {
        "prompt_tokens": 25,
        "total_tokens": 32,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0, "created_cache_tokens": 0, "multimodal_tokens": None},
        "completion_tokens_details": None,
    }


async def test_several_prompts_become_numbered_choices(client: aiohttp.ClientSession) -> None:
    answer = await post(client, "/v1/completions", prompt=["abcd", "efgh"], n=2, max_tokens=2)
    choices = answer["choices"]

    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]  # type: ignore[attr-defined]
    assert choices[0]["text"] == choices[1]["text"] != choices[2]["text"]  # type: ignore[index]
    assert answer["usage"]["prompt_tokens"] == 2  # type: ignore[index]
    assert answer["usage"]["completion_tokens"] == 8  # type: ignore[index]


async def test_token_ids_stand_for_the_text_they_came_from(client: aiohttp.ClientSession) -> None:
    text = "to be or not to be, that is the question " * 4
    tokens = await post(client, "/tokenize", prompt=text)
    first = await post(client, "/v1/completions", prompt=text, max_tokens=4)
    second = await post(client, "/v1/completions", prompt=tokens["tokens"], max_tokens=4)

    assert tokens["count"] == len(text) // 4 == len(tokens["tokens"])  # type: ignore[arg-type]
    assert second["choices"] == first["choices"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 32  # type: ignore[index]


async def test_a_streamed_completion_says_the_same_as_the_whole_one(client: aiohttp.ClientSession) -> None:
    whole = await post(client, "/v1/completions", prompt="hello", max_tokens=5)
    chunks = await events(client, "/v1/completions", prompt="hello", max_tokens=5)
    said = [json.loads(chunk)["choices"][0] for chunk in chunks[:-1]]

    assert chunks[-1] == "[DONE]"
    assert "".join(choice["text"] for choice in said) == whole["choices"][0]["text"]  # type: ignore[index]
    assert [choice["finish_reason"] for choice in said][-1] == "length"


async def test_a_chat_stream_ends_with_usage_when_asked_for(client: aiohttp.ClientSession) -> None:
    body = {"messages": [{"role": "user", "content": "why? " * 30}], "max_completion_tokens": 3}
    whole = await post(client, "/v1/chat/completions", **body)
    chunks = await events(client, "/v1/chat/completions", **body, stream_options={"include_usage": True})
    first, *middle, last = (json.loads(chunk) for chunk in chunks[:-1])

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert content == whole["choices"][0]["message"]["content"]  # type: ignore[index]
    assert middle[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 32, "created_cache_tokens": 0}
    assert chunks[-1] == "[DONE]"


async def test_a_stream_without_include_usage_has_no_usage(client: aiohttp.ClientSession) -> None:
    chunks = await events(client, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}], max_tokens=2)

    assert all("usage" not in json.loads(chunk) for chunk in chunks[:-1])


async def test_a_chat_without_a_limit_stops_by_itself(client: aiohttp.ClientSession, server: SimServer) -> None:
    answer = await post(client, "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])

    assert answer["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]
    assert answer["usage"]["completion_tokens"] == server.config.output_tokens  # type: ignore[index]


async def test_the_next_turn_of_a_chat_hits_the_cache(client: aiohttp.ClientSession) -> None:
    turns = [{"role": "user", "content": "tell me a long story"}]
    first = await post(client, "/v1/chat/completions", messages=turns, max_tokens=100)
    said = first["choices"][0]["message"]["content"]  # type: ignore[index]
    turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "and then?"}]
    second = await post(client, "/v1/chat/completions", messages=turns, max_tokens=1)

    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 96  # type: ignore[index]


async def test_a_response_is_one_message(client: aiohttp.ClientSession) -> None:
    answer = await post(client, "/v1/responses", input="hello", max_output_tokens=4)
    part = answer["output"][0]["content"][0]  # type: ignore[index]

    assert (answer["object"], answer["status"]) == ("response", "incomplete")
    assert part["type"] == "output_text"
    assert len(part["text"].split()) == 4
    assert answer["usage"]["output_tokens"] == 4  # type: ignore[index]


async def test_a_streamed_response_tells_its_events_in_order(client: aiohttp.ClientSession) -> None:
    chunks = [json.loads(chunk) for chunk in await events(client, "/v1/responses", input=[{"content": "hello"}])]
    deltas = [chunk["delta"] for chunk in chunks if chunk["type"] == "response.output_text.delta"]

    assert [chunk["sequence_number"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0]["type"] == "response.created"
    assert chunks[-1]["type"] == "response.completed"
    assert chunks[-1]["response"]["output"][0]["content"][0]["text"] == "".join(deltas)
    assert chunks[-1]["response"]["usage"]["output_tokens"] == 64


async def test_embeddings_depend_on_the_text(client: aiohttp.ClientSession) -> None:
    answer = await post(client, "/v1/embeddings", input=["abcd", "efgh", "abcd"], dimensions=8)
    vectors = [item["embedding"] for item in answer["data"]]  # type: ignore[attr-defined]

    assert vectors[0] == vectors[2] != vectors[1]
    assert len(vectors[0]) == 8
    assert answer["usage"]["prompt_tokens"] == 3  # type: ignore[index]


async def test_adapters_are_listed_with_their_parent_and_can_be_asked(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/models") as response:
        listed = {model["id"]: model["parent"] for model in (await response.json())["data"]}
    answer = await post(client, "/v1/completions", model="lora-b", prompt="hello", max_tokens=2)

    assert listed == {"sim-model": None, "lora-a": "sim-model", "lora-b": "sim-model"}
    assert answer["model"] == "lora-b"
    async with client.get("/metrics") as response:
        page = await response.text()
    assert 'lora_requests_info{max_lora="2",running_lora_adapters="lora-b",waiting_lora_adapters="lora-b"} 1.' in page


async def test_the_request_id_comes_back_and_names_the_answer(client: aiohttp.ClientSession) -> None:
    body = {"prompt": "hello", "max_tokens": 1}
    async with client.post("/v1/completions", json=body, headers={"x-request-id": "abc-1"}) as response:
        answer = await response.json()

        assert answer["id"] == "cmpl-abc-1"
        assert response.headers["x-request-id"] == "abc-1"
        assert response.headers["x-sim-name"] == "sim-0"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/completions", {"model": "nope", "prompt": "a"}, 404, "The model `nope` does not exist."),
        ("/v1/completions", {"prompt": ""}, 400, "cannot be empty"),
        ("/v1/completions", {"prompt": [1, "a"]}, 400, "prompt must be"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be at least 1"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 10**6}, 400, "maximum context length"),
        ("/v1/completions", {"prompt": "a", "n": 0}, 400, "n must be"),
        ("/v1/completions", {}, 400, "prompt"),
        ("/v1/chat/completions", {"messages": "a"}, 400, "messages"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, 400, "dimensions"),
        ("/tokenize", {}, 400, "prompt or messages"),
        ("/v1/audio", {}, 404, "Not Found"),
        ("/health", {}, 405, "Method Not Allowed"),
    ],
)
async def test_a_request_that_cannot_be_served_gets_an_error_body(
    client: aiohttp.ClientSession, path: str, body: dict[str, object], status: int, message: str
) -> None:
    async with client.post(path, json=body) as response:
        error = (await response.json())["error"]

        assert (response.status, error["code"]) == (status, status)
        assert message in error["message"]
        assert response.headers["x-sim-name"] == "sim-0"


async def test_a_body_that_is_no_json_is_a_bad_request(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/completions", data=b'{"prompt": nope}') as response:
        error = (await response.json())["error"]

    assert (response.status, error["type"]) == (400, "BadRequestError")


async def test_the_small_endpoints_answer(client: aiohttp.ClientSession) -> None:
    answers = []
    for path in ("/health", "/version", "/load"):
        async with client.get(path) as response:
            answers.append((response.status, await response.text()))

    assert answers == [(200, ""), (200, '{"version":"0.32.0"}'), (200, '{"server_load":0}')]


async def test_requests_are_counted_on_the_metrics_page(client: aiohttp.ClientSession) -> None:
    await post(client, "/v1/completions", prompt="x" * 400, max_tokens=5)
    await post(client, "/v1/completions", prompt="x" * 400, max_tokens=5)

    found = await gauges(client)

    assert found["vllm:request_success_total"] == 2
    assert found["vllm:prompt_tokens_total"] == 200
    assert found["vllm:generation_tokens_total"] == 10
    assert (found["vllm:prefix_cache_queries_total"], found["vllm:prefix_cache_hits_total"]) == (200, 96)
    assert found["vllm:time_to_first_token_seconds_count"] == 2
    assert found["vllm:inter_token_latency_seconds_count"] == 8
    assert found["vllm:num_requests_running"] == found["vllm:kv_cache_usage_perc"] == 0


async def test_received_requests_can_be_inspected(client: aiohttp.ClientSession, server: SimServer) -> None:
    small, large = b'{"prompt": "hello", "max_tokens": 1}', b'{"prompt": "' + b"x" * 70_000 + b'", "max_tokens": 1}'
    for body in (small, large):
        async with client.post("/v1/completions", data=body, headers={"X-Test": "yes"}) as response:
            assert response.status == 200
    async with client.get("/sim/requests") as response:
        listed = await response.json()
    async with client.get("/sim/requests?last=1") as response:
        assert await response.json() == listed[1:]

    assert (listed[0]["path"], listed[0]["size_bytes"], listed[0]["body"]) == ("/v1/completions", 36, small.decode())
    assert ["X-Test", "yes"] in listed[0]["headers"]
    assert "body" not in listed[1]
    assert listed[1]["xxh64"] == xxhash.xxh64_hexdigest(large)
    assert server.requests[0].body == small
    assert server.requests[1].header("x-test") == "yes"


async def test_a_client_that_leaves_frees_its_blocks(client: aiohttp.ClientSession, server: SimServer) -> None:
    async with client.post(
        "/v1/completions", json={"prompt": "x" * 4000, "max_tokens": 100_000, "stream": True}
    ) as response:
        await response.content.readline()
        assert server.running == 1
        response.close()
    await until(lambda: not server.running)
    left = await state(client)
    page = await gauges(client)

    assert left["blocks"]["used"] == 0  # type: ignore[index]
    assert page["vllm:num_requests_running"] == page["vllm:kv_cache_usage_perc"] == 0


async def state(client: aiohttp.ClientSession) -> dict[str, object]:
    async with client.get("/sim/state") as response:
        found: dict[str, object] = await response.json()
        return found


async def test_a_full_queue_turns_requests_away() -> None:
    config = SimConfig(max_num_seqs=1, max_queued_requests=2)
    async with SimServer(config) as server, aiohttp.ClientSession(server.url) as client:
        server.set_faults(frozen=True)
        body = {"prompt": "hello", "max_tokens": 1}
        first = asyncio.create_task(post(client, "/v1/completions", **body))
        await until(lambda: server.running == 1)
        others = [asyncio.create_task(post(client, "/v1/completions", **body)) for _ in range(2)]
        await until(lambda: server.waiting == 2)
        async with client.post("/v1/completions", json=body) as response:
            error = (await response.json())["error"]
        assert (response.status, error["type"]) == (503, "ServiceUnavailableError")
        assert (await gauges(client))["vllm:admission_rejections_total"] == 1
        server.clear_faults()
        await asyncio.gather(first, *others)


async def test_streams_may_collect_tokens_before_they_send() -> None:
    config = SimConfig(cost=FAST, stream_interval=4)
    async with SimServer(config) as server, aiohttp.ClientSession(server.url) as client:
        chunks = await events(client, "/v1/completions", prompt="hello", max_tokens=9)
        texts = [json.loads(chunk)["choices"][0]["text"] for chunk in chunks[:-1]]

    assert len("".join(texts).split()) == 9
    assert len(texts) <= 4  # the first token, then every fourth, then the rest


async def test_many_requests_share_one_engine() -> None:
    async with SimServer(SimConfig(cost=FAST)) as server, aiohttp.ClientSession(server.url) as client:
        server.set_faults(frozen=True)  # until all have come
        asked = [
            asyncio.create_task(post(client, "/v1/completions", prompt=f"{n} and so on", max_tokens=20))
            for n in range(40)
        ]
        await until(lambda: server.running + server.waiting == 40)
        server.clear_faults()
        answers = await asyncio.gather(*asked)
        found = await gauges(client)

    assert {answer["usage"]["completion_tokens"] for answer in answers} == {20}  # type: ignore[index]
    assert found["vllm:generation_tokens_total"] == 800
    assert found["vllm:iteration_tokens_total_count"] < 200  # one by one it would have been 800 steps


async def test_steps_shorter_than_a_sleep_are_run_together() -> None:
    config = SimConfig(cost=StepCost(speed=10_000))
    async with SimServer(config) as server, aiohttp.ClientSession(server.url) as client:
        chunks = await events(client, "/v1/completions", prompt="hello", max_tokens=2000)

    assert len(chunks) < 500  # one wakeup a token would have been 2000
