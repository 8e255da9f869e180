"""The precise prefix index over real sockets: engines that publish, lose messages, restart, vanish, flood."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
import zmq

from epp.api import (
    PREFIX_MATCH,
    Endpoint,
    Fleet,
    Payload,
    PrefixMatch,
    Prompt,
    Request,
    Termination,
    TokenizedPrompt,
    data_key,
)
from epp.app import Service
from epp.config import load_file
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode, RequestHead
from epp.observability.explanation import explanation
from epp.outside import World, sockets
from epp_plugins.kv_events import publisher
from epp_plugins.kv_events.publisher import Publisher
from epp_plugins.producers.precise_prefix_cache_producer import PrecisePrefixCacheProducer
from tests.support.kv_engine import CLEARED, FakeEngine, removed, stored
from tests.support.loopback import loopback_options
from tests.support.outside import handle_with
from tests.support.plugins import make_plugin
from tests.support.ports import free_port
from tests.support.service import make_director

NAME = "precise-prefix-cache-producer"
TOKENS = list(range(100, 140))  # ten blocks of four


class Bench:
    """A producer that follows fake engines."""

    def __init__(self, world: World, **parameters: Any) -> None:
        self.fleet = Fleet()
        handle = handle_with(world, self.fleet, name=NAME)
        self.handle = handle.__class__(
            **{f: getattr(handle, f) for f in handle.__struct_fields__} | {"clock": monotonic, "sleep": asyncio.sleep}
        )
        events = parameters.pop("kvEventsConfig", {"podDiscoveryConfig": {"socketPort": 0}})
        self.producer = make_plugin(PrecisePrefixCacheProducer, handle=self.handle, kvEventsConfig=events, **parameters)
        self.producer.start()

    def add(self, host_port: str, *, name: str = "", labels: dict[str, str] | None = None) -> Endpoint:
        host, _, port = host_port.rpartition(":")
        endpoint = Endpoint(name or f"e{len(self.fleet)}", host, int(port), labels=labels)
        self.fleet.add(endpoint)
        self.producer.endpoint_added(endpoint)
        return endpoint

    def remove(self, endpoint: Endpoint) -> None:
        self.producer.endpoint_removed(endpoint)
        self.fleet.remove(endpoint)

    def match(
        self, tokens: list[int] = TOKENS, *, guess: dict[int, float] | None = None, model: str = "m", salt: str = ""
    ) -> PrefixMatch:
        request = Request("r", {})
        request.model = model
        request.payload = Payload(model=model, cache_salt=salt)
        prompt = Prompt(array("I", tokens).tobytes(), tokenized=True)
        request.data["TokenizedPrompt/token-producer"] = TokenizedPrompt((prompt,))
        if guess is not None:
            matched = self.fleet.columns["waiting_requests"] * 0.0
            for row, blocks in guess.items():
                matched[row] = blocks
            request.data[data_key(PREFIX_MATCH)] = PrefixMatch(matched, 10, 4)
        self.producer.produce(request, self.fleet.candidates())
        found: PrefixMatch = request.data[data_key(PREFIX_MATCH, NAME)]
        return found

    def blocks(self, endpoint: Endpoint, tokens: list[int] = TOKENS, **more: Any) -> float:
        return self.match(tokens, **more).matched_blocks.item(endpoint.row)

    def publisher(self, endpoint: Endpoint, rank: int = 0) -> Publisher:
        (found,) = [p for p in self.producer._followers.of(endpoint) if p.name.endswith(f"rank {rank}")]
        return found

    def trust(self, endpoint: Endpoint) -> list[str]:
        state: Any = self.producer.dump_state()
        return [p["trust"] for p in state["publishers"] if p["name"].startswith(f"{endpoint.name} ")]


async def until(true: Any) -> None:
    """Until `true()` is; events arrive when they do."""
    async with asyncio.timeout(90):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_what_an_engine_tells_is_known_and_what_it_drops_is_not(world: World, stack: AsyncExitStack) -> None:
    bench = Bench(world)
    engine, other = [await stack.enter_async_context(FakeEngine()) for _ in range(2)]
    here, there = bench.add(engine.host_port), bench.add(other.host_port)
    await engine.until_subscribed()

    await engine.publish(stored(TOKENS))
    await until(lambda: bench.blocks(here) == 10)
    await engine.publish(removed(TOKENS[32:]), stored(TOKENS[:36], first=8))
    assert bench.blocks(there) == 0

    await engine.publish(CLEARED, stored(TOKENS[:12]))
    await until(lambda: bench.blocks(here) == 3)
    match = bench.match()
    assert (match.total_blocks, match.block_size_tokens) == (10, 4)


async def test_events_from_before_the_start_come_by_replay(
    world: World, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_IDLE_S", 60.0)  # a busy machine is no reason to ask twice
    engine = await stack.enter_async_context(FakeEngine())
    for i in range(1000):
        await engine.publish(stored([i] * 4))
    await engine.publish(stored(TOKENS))
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)

    await until(lambda: bench.blocks(endpoint) == 10)
    assert (bench.trust(endpoint), engine.replays_asked) == (["all"], [0])


async def test_a_gap_is_filled(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS[:20]))
    await until(lambda: bench.blocks(endpoint) == 5)

    await engine.publish(stored(TOKENS[:32], first=5), lost=True)
    await engine.publish(stored(TOKENS, first=8))

    await until(lambda: bench.blocks(endpoint) == 10)
    assert bench.trust(endpoint) == ["all"]


async def test_a_gap_that_cannot_be_filled_costs_what_was_known(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine(replays=False))
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    await until(lambda: bench.blocks(endpoint) == 10)

    await engine.publish(removed(TOKENS), lost=True)
    await engine.publish(stored([7] * 8))

    await until(lambda: bench.blocks(endpoint) == 0)
    assert (bench.blocks(endpoint, [7] * 8), bench.trust(endpoint)) == (2, ["some"])


async def test_a_replay_without_answer_leaves_the_guess_and_live_events(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    engine.answers_replays = False
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    assert bench.blocks(endpoint, guess={0: 3}) == 3

    await until(lambda: bench.blocks(endpoint) == 10)
    assert bench.trust(endpoint) == ["all"]  # the first message that came was the first there is


@pytest.mark.parametrize("replays", [True, False])
async def test_an_engine_that_starts_anew_has_an_empty_cache(
    world: World, stack: AsyncExitStack, replays: bool
) -> None:
    engine = await stack.enter_async_context(FakeEngine(replays=replays))
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    await engine.publish(stored([1] * 8))
    await until(lambda: bench.blocks(endpoint, [1] * 8) == 2)

    await engine.disconnect()
    await until(lambda: bench.trust(endpoint) == ["none"])
    await engine.come_back(anew=True)
    await engine.until_subscribed()
    await engine.publish(stored([2] * 8))

    await until(lambda: bench.blocks(endpoint, [2] * 8) == 2)
    assert (bench.blocks(endpoint), bench.trust(endpoint)) == (0, ["all"])


async def test_an_engine_that_comes_back_elsewhere_is_found(world: World, stack: AsyncExitStack) -> None:
    """With port 0 a new process publishes at other ports, and says so."""
    engine = await stack.enter_async_context(FakeEngine())
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    await until(lambda: bench.blocks(endpoint) == 10)

    await engine.disconnect()
    await engine.come_back(anew=True, elsewhere=True)
    await engine.until_subscribed()
    await engine.publish(stored([2] * 8))

    await until(lambda: bench.blocks(endpoint, [2] * 8) == 2)
    assert bench.blocks(endpoint) == 0


async def test_an_endpoint_without_connection_counts_as_guessed(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    bench = Bench(world)
    endpoint, silent = bench.add(engine.host_port), bench.add("127.0.0.1:1")
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    await until(lambda: bench.blocks(endpoint) == 10)
    match = bench.match(guess={endpoint.row: 4, silent.row: 5})
    assert match.told is not None
    assert (match.matched_blocks[:2].tolist(), match.told[:2].tolist()) == ([10, 5], [1, 0])

    await engine.disconnect()
    await until(lambda: bench.blocks(endpoint, guess={endpoint.row: 4}) == 4)


async def test_events_that_come_late_are_not_believed_until_they_are_on_time(
    world: World, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lags is behind by what is unread: a flood of it, whose messages were sent ever longer ago."""
    engine = await stack.enter_async_context(FakeEngine(replays=False))
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    await until(lambda: bench.blocks(endpoint) == 10)
    followed = bench.publisher(endpoint)
    seen: list[tuple[bool, float]] = []  # after each reading: does it lag, and what is believed
    received = followed.received

    def watched(messages: Any, *, more: bool) -> None:
        received(messages, more=more)
        seen.append((followed.lagging, bench.blocks(endpoint, guess={endpoint.row: 4})))

    followed.received = watched  # type: ignore[method-assign]
    monkeypatch.setattr(sockets, "_AT_ONCE", 1)  # of a flood there is always more, however slowly it comes
    for i in range(2000):
        await engine.publish(stored([i] * 4), late_s=60.0)
    await engine.publish(stored([77] * 8))

    await until(lambda: bench.blocks(endpoint, [77] * 8) == 2)
    assert {blocks for lagging, blocks in seen if lagging} == {4}
    assert not seen[-1][0]


async def test_a_flood_ends_with_an_exact_index(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    for i in range(5000):
        await engine.publish(stored([i] * 4), *([removed([i - 10] * 4)] if i >= 10 else []))

    last = [[4990 + i] * 4 for i in range(10)]
    # The last message may have come by a replay that is not over yet.
    await until(lambda: bench.publisher(endpoint).feed.last == 4999 and bench.trust(endpoint) == ["all"])
    assert [bench.blocks(endpoint, tokens) for tokens in last] == [1] * 10
    state: Any = bench.producer.dump_state()
    assert state["blocks"] == 10


async def test_malformed_messages_are_counted_and_harm_nobody(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine(replays=False))
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.send_raw(b"only a topic")
    await engine.send_raw(b"kv", b"short", b"x")
    await engine.send_raw(b"kv", b"\0" * 8, b"\xc1", b"more")
    await engine.publish(stored(TOKENS))

    await until(lambda: bench.blocks(endpoint) == 10)
    assert bench.producer._followers.counts.malformed == 3


async def test_ranks_of_one_endpoint_are_followed_each(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine(ranks=2))
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    for rank in range(2):
        await engine.until_subscribed(rank)
    await engine.publish(stored(TOKENS[:8]), rank=0)
    await engine.publish(stored(TOKENS[:24]), rank=1)

    await until(lambda: bench.blocks(endpoint) == 6 and bench.trust(endpoint) == ["all", "all"])


async def test_tiers_count_by_their_weights(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    moved = {"type": "BlockStored", "block_hashes": stored(TOKENS)["block_hashes"], "parent_block_hash": None}
    moved |= {"token_ids": [], "block_size": 0, "medium": "CPU"}
    await engine.publish(stored(TOKENS), moved, removed(TOKENS))

    await until(lambda: bench.blocks(endpoint) == pytest.approx(8))
    match = bench.match()
    assert match.cached_blocks is not None
    assert match.cached_blocks.item(endpoint.row) == 10


async def test_known_ports_are_the_ranks(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    await engine.publish(stored(TOKENS))
    events, replay = engine.ports
    pods = {"socketPort": events - 1, "replaySocketPort": replay - 1}
    bench = Bench(world, kvEventsConfig={"podDiscoveryConfig": pods})
    endpoint = bench.add("127.0.0.1:8001", name="pod-rank-1")

    await until(lambda: bench.blocks(endpoint) == 10)


async def test_engines_that_connect_are_told_apart_by_their_topics(world: World) -> None:
    port = free_port()
    events = {"zmqEndpoint": f"tcp://127.0.0.1:{port}", "discoverPods": False, "topicFilter": "kv@"}
    bench = Bench(world, kvEventsConfig=events)
    one, other = bench.add("10.0.0.1:8000"), bench.add("10.0.0.2:8000")
    context = zmq.Context()
    try:
        publisher = context.socket(zmq.XPUB)
        publisher.connect(f"tcp://127.0.0.1:{port}")
        assert await asyncio.to_thread(publisher.recv) == b"\x01kv@"
        for topic, tokens in (("kv@10.0.0.2:8000@m", TOKENS), ("kv@10.0.0.1@m", TOKENS[:8]), ("kv@10.0.0.9@m", TOKENS)):
            payload = msgspec.msgpack.encode([1.0, [stored(tokens)], 0])
            publisher.send_multipart([topic.encode(), b"\0" * 8, payload])

        await until(lambda: bench.match().matched_blocks[:2].tolist() == [2, 10])
        await until(lambda: bench.producer._followers.counts.malformed == 1)
        assert (one.row, other.row) == (0, 1)
    finally:
        context.destroy(linger=0)


async def test_an_endpoint_that_goes_takes_its_sockets_and_blocks_along(world: World, stack: AsyncExitStack) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    bench = Bench(world)
    endpoint = bench.add(engine.host_port)
    await engine.until_subscribed()
    await engine.publish(stored(TOKENS))
    await until(lambda: bench.blocks(endpoint) == 10)

    bench.remove(endpoint)
    again = bench.add("127.0.0.1:1")

    assert again.row == endpoint.row
    assert bench.blocks(again) == 0
    await until(lambda: engine.subscribers == [0])


async def test_stopping_leaves_nothing(stack: AsyncExitStack) -> None:
    world = World()
    engine = await stack.enter_async_context(FakeEngine())
    before = asyncio.all_tasks()
    bench = Bench(world)
    bench.add(engine.host_port)
    await engine.until_subscribed()

    bench.producer.stop()
    await world.close()

    await until(lambda: engine.subscribers == [0])
    await until(lambda: not {t for t in asyncio.all_tasks() - before if not t.done()})


CONFIG = """apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: precise-prefix-cache-producer, parameters: {kvEventsConfig: {podDiscoveryConfig: {socketPort: 0}}}}
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}}
schedulingProfiles: [{name: default, plugins: [{pluginRef: prefix-cache-scorer}]}]
"""


async def test_requests_go_where_engines_say_and_explain_shows_it(world: World, stack: AsyncExitStack) -> None:
    """Through the director: tokens in the request, blocks at the second engine, and the reason in the explanation."""
    engines = [await stack.enter_async_context(FakeEngine()) for _ in range(3)]
    director = make_director(*(e.host_port for e in engines), config=CONFIG, outside=world, keep=10)
    for engine in engines:
        await engine.until_subscribed()
    await engines[1].publish(stored(TOKENS))
    producer: Any = director.pipeline.plugins[NAME]
    await until(lambda: [p["trust"] for p in producer.dump_state()["publishers"]] == ["all"] * 3)
    await until(lambda: producer.dump_state()["blocks"] == 10)

    exchange = RequestExchange(director, lambda path, waiting: pytest.fail("nothing has to wait"))
    headers = {":method": "POST", ":path": "/v1/completions", "x-request-id": "r"}
    head = RequestHead(
        headers, end_of_stream=False, request_body_mode=BodyMode.BUFFERED, response_body_mode=BodyMode.NONE
    )
    destination = exchange.route(head, json.dumps({"model": "m", "prompt": TOKENS}).encode())
    exchange.close(Termination.COMPLETE)

    assert destination is not None
    assert destination.value == engines[1].host_port
    decision = director.decisions.find("r")
    assert decision is not None
    explained = explanation(decision)
    told = next(p for p in explained["prefixes"] if p["key"].endswith(NAME))
    assert (told["matched_blocks"], told["told_by"]) == ({"s1": 10}, ["s0", "s1", "s2"])
    assert [e["prefix_blocks"] for e in explained["endpoints"]] == [0, 10, 0]
    (facts,) = director.request_log.recent()
    producer.stop()
    assert (facts["prefix_blocks"], facts["prefix_total"]) == (10, 10)


async def test_a_running_service_follows_its_engines_through_a_reload_and_lets_go_of_them(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    engine = await stack.enter_async_context(FakeEngine())
    path = tmp_path / "epp.yaml"
    path.write_text(CONFIG)
    options = loopback_options(
        config_file=str(path),
        endpoints=(engine.host_port,),
    )
    service = Service(options, load_file(path))

    def publishers() -> list[dict[str, Any]]:
        plugin: Any = service.director.pipeline.plugins[NAME]
        found: list[dict[str, Any]] = plugin.dump_state()["publishers"]
        return found

    await service.start()
    try:
        await until(lambda: [p["trust"] for p in publishers()] == ["all"])
        await engine.until_subscribed()
        await engine.publish(stored(TOKENS))
        await until(lambda: publishers()[0]["blocks"]["gpu"] == 10)
        before = service.director.pipeline.plugins[NAME]

        path.write_text(CONFIG.replace("socketPort: 0}", "socketPort: 0}, maxLag: 2s"))
        await until(lambda: service.director.pipeline.plugins[NAME] is not before)
        await until(lambda: [p["trust"] for p in publishers()] == ["all"])
        await until(lambda: publishers()[0]["blocks"]["gpu"] == 10)  # by replay
    finally:
        async with asyncio.timeout(90):
            await service.stop()
    await until(lambda: engine.subscribers == [0])
