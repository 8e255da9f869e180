"""The precise prefix index beside real vLLM: what is predicted is what the engine then says it had cached."""

from __future__ import annotations

import json
import os
import random
import signal
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from epp.api import Request, TokenizedPrompt
from epp.outside import World
from epp_plugins.kv_events.vllm_hashes import ALGORITHMS, SEEDED
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.producers.token_producer import TokenProducer
from tests.integration.test_kv_events import Bench, until
from tests.support.outside import finish, handle_with
from tests.support.parsing import parse
from tests.support.plugins import make_fleet, make_plugin
from tests.support.processes import has_ended
from tests.vllm.conftest import BLOCK_SIZE, MODEL, Vllm, vllm

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


def prompts(rng: random.Random, count: int) -> list[list[int]]:
    """Prompts of which many begin alike, of all lengths around whole blocks."""
    roots = [[rng.randrange(10, 4000) for _ in range(rng.randint(100, 500))] for _ in range(6)]
    made = []
    for _ in range(count):
        root = rng.choice(roots)
        made.append(root[: rng.randint(40, len(root))] + [rng.randrange(10, 4000) for _ in range(rng.randint(0, 80))])
    return made


async def predicted_and_cached(
    bench: Bench, servers: Vllm, rng: random.Random, count: int, **more: object
) -> list[tuple[int, int, int]]:
    """For each request what was predicted, what the engine had cached, and what it could have had, in blocks."""
    found = []
    endpoints = list(bench.fleet.candidates())
    for tokens in prompts(rng, count):
        server = rng.randrange(len(endpoints))
        before = int(bench.blocks(endpoints[server], tokens))
        usable = (len(tokens) - 1) // BLOCK_SIZE  # at least one token is always computed
        cached = await servers.complete(server, tokens, **more)
        found.append((min(before, usable), cached // BLOCK_SIZE, usable))
        held = min(len(tokens) // BLOCK_SIZE, usable + 1)
        await until(lambda t=tokens, s=server, h=held: bench.blocks(endpoints[s], t) >= h)
    return found


async def test_predictions_are_what_engines_had_cached(world: World, tmp_path: Path) -> None:
    """Two servers, 120 requests, a cache that overflows: at least 95 of 100 blocks are right."""
    async with vllm(tmp_path, count=2) as servers:
        bench = Bench(world)
        for host_port in servers.host_ports:
            bench.add(host_port)
        await until(lambda: [p.trust.name for p in bench.producer._followers.publishers()] == ["ALL", "ALL"])

        found = await predicted_and_cached(bench, servers, random.Random(1), 120)
        bench.producer.stop()

    wrong = sum(abs(before - cached) for before, cached, _ in found)
    usable = sum(u for _, _, u in found)
    print(f"\n{len(found)} requests, {usable} blocks, {sum(c for _, c, _ in found)} cached, {wrong} predicted wrongly")
    assert sum(c for _, c, _ in found) > usable / 4
    assert wrong <= usable * 0.05


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_engines_own_hashes_are_computed_here(world: World, tmp_path: Path, algorithm: str) -> None:
    """With and without a seed, where the algorithm has one of its own."""
    seed = "" if algorithm in SEEDED else "7"
    async with vllm(tmp_path, hashes=algorithm, seed=seed) as servers:
        bench = Bench(world, tokenProcessorConfig={"hashAlgorithm": algorithm, "hashSeed": seed})
        bench.add(servers.host_ports[0])
        await until(lambda: [p.trust.name for p in bench.producer._followers.publishers()] == ["ALL"])

        found = await predicted_and_cached(bench, servers, random.Random(2), 25)
        bench.producer.stop()

    assert [before for before, _, _ in found] == [cached for _, cached, _ in found]


async def test_adapters_have_blocks_of_their_own(world: World, tmp_path: Path) -> None:
    names = ("tiny", "lora-a", "lora-b")
    rng = random.Random(4)
    found = []
    async with vllm(tmp_path, adapters=names[1:]) as servers:
        bench = Bench(world)
        endpoint = bench.add(servers.host_ports[0])
        await until(lambda: bench.trust(endpoint) == ["all"])
        for name in names:  # an adapter is known by its first block
            await servers.complete(0, [7] * (2 * BLOCK_SIZE), model=name)
        await until(lambda: bench.producer._followers.tally.adapters == set(names[1:]))
        for tokens in prompts(rng, 40):
            name = rng.choice(names)
            usable = (len(tokens) - 1) // BLOCK_SIZE
            before = min(int(bench.blocks(endpoint, tokens, model=name)), usable)
            cached = await servers.complete(0, tokens, model=name)
            found.append((before, cached // BLOCK_SIZE))
            await until(lambda t=tokens, n=name, u=usable: bench.blocks(endpoint, t, model=n) >= u)
        bench.producer.stop()

    assert [before for before, _ in found] == [cached for _, cached in found]
    assert any(cached for _, cached in found)


async def test_replays_gaps_salts_and_a_restart(world: World, tmp_path: Path) -> None:
    rng = random.Random(3)
    async with vllm(tmp_path) as servers:
        some = prompts(rng, 10)
        for tokens in some:
            await servers.complete(0, tokens)
        bench = Bench(world)
        endpoint = bench.add(servers.host_ports[0])
        await until(lambda: bench.trust(endpoint) == ["all"])
        # By replay: everything was published before anybody listened.
        assert all(bench.blocks(endpoint, t) == len(t) // BLOCK_SIZE for t in some)

        publisher = bench.publisher(endpoint)
        heard = publisher.received
        publisher.received = lambda messages, *, more: None  # type: ignore[method-assign]
        lost, after = prompts(rng, 2)
        await servers.complete(0, lost, cache_salt="pepper")
        publisher.received = heard  # type: ignore[method-assign]
        await servers.complete(0, after)
        await until(lambda: bench.blocks(endpoint, after) == len(after) // BLOCK_SIZE)
        assert bench.blocks(endpoint, lost, salt="pepper") == len(lost) // BLOCK_SIZE
        assert bench.blocks(endpoint, lost, salt="salt") == 0
        assert publisher.feed.trust.name == "ALL"
        port = int(servers.host_ports[0].rpartition(":")[2])
        pids = servers.pids(0)
        os.killpg(servers.process.pid, signal.SIGKILL)

    await until(lambda: bench.trust(endpoint) == ["none"])
    await until(lambda: all(map(has_ended, pids)))  # the next one listens on the same port
    async with vllm(tmp_path / "again", first_port=port) as servers:
        await until(lambda: bench.trust(endpoint) == ["all"])
        assert bench.blocks(endpoint, some[0]) == 0
        found = await predicted_and_cached(bench, servers, rng, 10)
        bench.producer.stop()
    assert [before for before, _, _ in found] == [cached for _, cached, _ in found]


CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "What is a cache?"}]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b\n\n c"},
            {"role": "user", "content": "ü€ <|user|> x"},
        ]
    },
    {"messages": [{"role": "user", "content": "go on"}], "add_generation_prompt": False},
]


async def test_tokens_are_the_same_from_every_source(world: World, tmp_path: Path) -> None:
    """Rendered by the server, tokenized by it, and made from files: for chats, texts, messages and responses."""
    async with vllm(tmp_path) as servers:
        url = f"http://{servers.host_ports[0]}"
        remote = {"modelName": "tiny", "vllm": {"url": url}}
        rendering = make_plugin(TokenProducer, handle=handle_with(world, name="token-producer"), **remote)
        tokenizing = make_plugin(TokenProducer, handle=handle_with(world, name="token-producer"), **remote)
        assert tokenizing._server is not None
        tokenizing._server._renders = False
        local = make_plugin(TokenProducer, handle=handle_with(world, name="token-producer"), local={"path": str(MODEL)})

        async def tokens(
            producer: TokenProducer, path: str, body: dict[str, Any], parser: Any = OpenAIParser
        ) -> list[int]:
            request = Request("r", {":path": path})
            request.body = json.dumps({"model": "alias", **body}).encode()
            request.payload = parse(parser, path, request.body)
            waiting = producer.produce(request, make_fleet(1).candidates())
            if producer is local:
                finish(waiting)
            elif waiting is not None:
                await waiting
            (prompt,) = prompt_of(request)
            assert prompt.tokenized
            return array("I", prompt.data).tolist()

        for chat in CHATS:
            path = "/v1/chat/completions"
            of_three = [await tokens(p, path, chat) for p in (rendering, tokenizing, local)]
            assert of_three[0] == of_three[1] == of_three[2]
        text = {"prompt": "Some text,  with <s> in it.\n\nAnd more."}
        of_three = [await tokens(p, "/v1/completions", text) for p in (rendering, tokenizing, local)]
        assert of_three[0] == of_three[1] == of_three[2]
        asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        as_chat = await tokens(rendering, "/v1/chat/completions", asked)
        assert await tokens(rendering, "/v1/messages", asked, AnthropicParser) == as_chat
        assert await tokens(rendering, "/v1/responses", {"input": "hello"}) == as_chat


def prompt_of(request: Request) -> Any:
    found: TokenizedPrompt = request.data["TokenizedPrompt/token-producer"]
    return found.prompts
