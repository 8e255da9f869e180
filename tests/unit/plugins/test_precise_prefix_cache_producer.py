from __future__ import annotations

import logging
from array import array
from typing import Any

import msgspec
import numpy as np
import pytest

from epp.api import (
    PREFIX_MATCH,
    ConfigError,
    Endpoint,
    Fleet,
    Nowhere,
    Payload,
    PrefixMatch,
    Prompt,
    Request,
    Subscriber,
    Subscription,
    Termination,
    TokenizedPrompt,
    Usage,
    data_key,
)
from epp_plugins.kv_events.vllm_hashes import VllmHashes, in_event
from epp_plugins.producers.precise_prefix_cache_producer import PrecisePrefixCacheProducer
from epp_plugins.scorers.precise_prefix_cache_scorer import PrecisePrefixCacheScorer
from tests.support.kv_engine import removed, stored
from tests.support.outside import handle_with
from tests.support.plugins import Clock, make_plugin
from tests.support.recording import make_recorder, value
from tests.support.scheduling import ended, picked

NAME = "precise-prefix-cache-producer"
TOKENS = list(range(100, 140))  # ten blocks of four


class Sockets(Nowhere):
    """Notes who subscribes where; the test says what comes."""

    def __init__(self) -> None:
        self.subscribers: dict[str, Subscriber] = {}
        self.bound: dict[str, bytes] = {}

    def subscribe(self, to: Subscriber, address: str, *, bind: bool = False, topic: bytes = b"") -> Subscription:
        self.subscribers[address] = to
        if bind:
            self.bound[address] = topic
        return super().subscribe(to, address)


class Bench:
    def __init__(
        self, count: int = 2, *, cls: type[PrecisePrefixCacheProducer] = PrecisePrefixCacheProducer, **params: Any
    ):
        self.sockets = Sockets()
        self.clock = Clock()
        self.fleet = Fleet()
        self.recorder = make_recorder()
        handle = handle_with(self.sockets, self.fleet, name=NAME, clock=self.clock)
        handle = msgspec.structs.replace(handle, metrics=self.recorder.plugin_metrics)
        self.producer = make_plugin(cls, handle=handle, **params)
        self.producer.start()
        self.numbers: dict[str, int] = {}
        for i in range(count):
            endpoint = Endpoint(f"s{i}", f"10.0.0.{i + 1}", 8000)
            self.fleet.add(endpoint)
            self.producer.endpoint_added(endpoint)

    def tell(self, row: int, *events: object, rank: int = 0, sent_s: float | None = None) -> None:
        address = f"tcp://10.0.0.{row + 1}:{5557 + rank}"
        to = self.sockets.subscribers[address]
        if address not in self.numbers:
            to.connected()
        number = self.numbers.setdefault(address, 0)
        self.numbers[address] += 1
        payload = msgspec.msgpack.encode([self.clock.now if sent_s is None else sent_s, list(events), rank])
        to.received([[b"kv@x@m", number.to_bytes(8, "big"), payload]], more=False)

    def request(
        self, tokens: list[int] | None = TOKENS, *, model: str = "m", salt: str = "", guess: Any = None
    ) -> Request:
        request = Request("r", {})
        request.model = model
        request.payload = Payload(model=model, cache_salt=salt)
        if tokens is not None:
            prompt = Prompt(array("I", tokens).tobytes(), tokenized=True)
            request.data["TokenizedPrompt/token-producer"] = TokenizedPrompt((prompt,))
        if guess is not None:
            request.data[data_key(PREFIX_MATCH)] = guess
        return request

    def match(self, request: Request) -> PrefixMatch:
        self.producer.produce(request, self.fleet.candidates())
        found: PrefixMatch = request.data[data_key(PREFIX_MATCH, NAME)]
        return found

    def blocks(self, tokens: list[int] = TOKENS, **more: Any) -> list[float]:
        return self.match(self.request(tokens, **more)).matched_blocks[: len(self.fleet)].tolist()

    def guess(self, *matched: float, total: int = 10, size: int = 4, right: float | None = None) -> PrefixMatch:
        """`right`: the share of these guesses that answers have borne out, of every endpoint."""
        blocks = np.array([*matched, *[0.0] * (self.fleet.capacity - len(matched))])
        confidence = None if right is None else np.full(self.fleet.capacity, right)
        return PrefixMatch(blocks, total, size, confidence=confidence)


def test_matches_are_counted_in_the_engines_blocks() -> None:
    bench = Bench(tokenProcessorConfig={"blockSizeTokens": 64})
    bench.tell(0, stored(TOKENS[:20]))
    bench.tell(1, stored(TOKENS))
    match = bench.match(bench.request())

    assert match.matched_blocks[:2].tolist() == [5, 10]
    assert (match.total_blocks, match.block_size_tokens) == (10, 4)


def test_engines_of_several_block_sizes_are_compared_in_the_smallest() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS[:16], block_size=8))
    bench.tell(1, stored(TOKENS[:24]))

    assert bench.blocks() == [4, 6]


def test_without_tokens_the_guess_counts() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS))
    match = bench.match(bench.request(None, guess=bench.guess(2, 3, size=64)))

    assert (match.matched_blocks[:2].tolist(), match.block_size_tokens) == ([2, 3], 64)
    assert match.told is not None
    assert not match.told.any()


def test_a_prompt_of_less_than_a_block_matches_nowhere() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS))
    match = bench.match(bench.request(TOKENS[:3], guess=bench.guess(0, 0, total=0)))

    assert (match.matched_blocks[:2].tolist(), match.total_blocks) == ([0, 0], 0)


def test_text_that_was_not_tokenized_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for _ in range(2):
        request = bench.request(None, guess=bench.guess(1, 0))
        request.data["TokenizedPrompt/token-producer"] = TokenizedPrompt((Prompt(b"text"),))
        bench.match(request)

    assert [r.levelno for r in caplog.records if "has no tokens" in r.message] == [logging.WARNING]


def test_without_tokens_and_without_a_guess_nothing_is_published() -> None:
    bench = Bench()
    request = bench.request(None)
    bench.producer.produce(request, bench.fleet.candidates())

    assert data_key(PREFIX_MATCH, NAME) not in request.data


def test_guesses_are_put_into_the_engines_blocks() -> None:
    """The approximate index has blocks of its own size; a share of the prompt is a share of it."""
    bench = Bench(3)
    bench.tell(0, stored(TOKENS))
    match = bench.match(bench.request(guess=bench.guess(0, 1, 2, total=2, size=20)))

    assert match.matched_blocks[:3].tolist() == [10, 5, 10]
    assert match.told is not None
    assert match.told[:3].tolist() == [1, 0, 0]


def test_where_the_beginning_is_not_known_the_larger_number_counts() -> None:
    bench = Bench()
    bench.numbers["tcp://10.0.0.1:5557"] = 7
    bench.sockets.subscribers["tcp://10.0.0.1:5557"].connected()
    bench.tell(0, stored(TOKENS[:12]))

    assert bench.blocks(guess=bench.guess(5, 0)) == [5, 0]
    assert bench.blocks(guess=bench.guess(1, 0)) == [3, 0]


def test_an_adapters_prompts_match_its_own_blocks_only() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS) | {"lora_name": "ad", "extra_keys": [["ad"]] * 10})
    bench.tell(1, stored(TOKENS))

    assert (bench.blocks(model="ad"), bench.blocks(model="served under any name")) == ([10, 0], [0, 10])


def test_a_cache_salt_separates_prompts() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS) | {"extra_keys": [["pepper"], *[None] * 9]})
    bench.tell(1, stored(TOKENS))

    assert (bench.blocks(salt="pepper"), bench.blocks(), bench.blocks(salt="other")) == ([10, 0], [0, 10], [0, 0])


def test_several_prompts_add_up() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS[:8]), stored([7] * 12))
    request = bench.request()
    prompts = tuple(Prompt(array("I", t).tobytes(), tokenized=True) for t in (TOKENS, [7] * 12))
    request.data["TokenizedPrompt/token-producer"] = TokenizedPrompt(prompts)
    match = bench.match(request)

    assert (match.matched_blocks.item(0), match.total_blocks) == (5, 13)


def test_layers_whose_blocks_serve_no_later_token_do_not_count() -> None:
    bench = Bench(1)
    bench.tell(0, stored(TOKENS) | {"kv_cache_spec_kind": "sliding_window", "group_idx": 1})
    assert bench.blocks() == [0]
    bench.tell(0, stored(TOKENS) | {"kv_cache_spec_kind": "full_attention", "group_idx": 0})
    bench.tell(0, removed(TOKENS) | {"group_idx": 1})

    assert bench.blocks() == [10]


def test_keys_may_be_vllms_own_hashes() -> None:
    """Then events need no tokens, and the seed has to be the engines'."""
    bench = Bench(2, tokenProcessorConfig={"hashAlgorithm": "sha256_cbor", "hashSeed": "42"})
    for row, seed in enumerate(("42", "another")):
        hashes = [in_event(h) for h in VllmHashes("sha256_cbor", seed).chain(TOKENS, 4)]
        bench.tell(row, stored(TOKENS) | {"block_hashes": hashes})

    assert bench.blocks() == [10, 0]


# --- speculation ---------------------------------------------------------------------------------------------------------


def test_a_pick_lets_its_blocks_count_until_events_had_time_to_come() -> None:
    bench = Bench(speculativeIndexing=True, speculativeTTL="3s")
    bench.tell(0, stored(TOKENS[:8]))
    bench.tell(1, stored([1] * 4))
    request = bench.request()
    bench.match(request)
    bench.producer.pre_request(request, picked(bench.fleet, 0))

    counted = []
    for _ in range(4):
        counted.append(bench.blocks())
        bench.clock.now += 1.0
    assert counted == [[10, 0], [10, 0], [10, 0], [2, 0]]


def test_without_it_a_pick_changes_nothing() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS[:8]))
    request = bench.request()
    bench.match(request)
    bench.producer.pre_request(request, picked(bench.fleet, 0))

    assert bench.blocks() == [2, 0]


@pytest.mark.parametrize(
    ("status", "termination", "left"),
    [(200, Termination.COMPLETE, 10), (503, Termination.COMPLETE, 2), (0, Termination.CLIENT_DISCONNECT, 2)],
)
def test_a_request_that_fails_takes_them_back(status: int, termination: Termination, left: float) -> None:
    bench = Bench(1, speculativeIndexing=True)
    bench.tell(0, stored(TOKENS[:8]))
    request = bench.request()
    bench.match(request)
    bench.producer.pre_request(request, picked(bench.fleet, 0))
    bench.producer.response_complete(request, ended(status, termination))

    assert bench.blocks() == [left]
    bench.clock.now += 60
    assert bench.blocks() == [2]


def test_every_profiles_first_endpoint_counts() -> None:
    bench = Bench(speculativeIndexing=True)
    for row in range(2):
        bench.tell(row, stored([1] * 4))
    request = bench.request()
    bench.match(request)
    bench.producer.pre_request(request, picked(bench.fleet, 0, prefill=1, encode=None))

    assert bench.blocks() == [10, 10]


# --- answers -------------------------------------------------------------------------------------------------------------


def answered(bench: Bench, cached_tokens: int, *, row: int = 0, guess: Any = None) -> None:
    request = bench.request(guess=guess)
    bench.match(request)
    bench.producer.pre_request(request, picked(bench.fleet, row))
    response = ended(200)
    response.usage = Usage(prompt_tokens=40, cached_tokens=cached_tokens)
    bench.producer.response_complete(request, response)


def test_answers_are_compared_with_what_was_told() -> None:
    bench = Bench(1)
    bench.tell(0, stored(TOKENS))
    for _ in range(20):
        answered(bench, 36)

    match = bench.match(bench.request())
    assert match.confidence is not None
    assert (match.confidence.item(0), match.prompt_tokens) == (1.0, 40)


def test_an_index_that_proves_wrong_is_dropped_and_the_guess_counts_again() -> None:
    bench = Bench(1)
    bench.tell(0, stored(TOKENS))
    for _ in range(50):
        answered(bench, 0)

    assert bench.blocks() == [0]
    assert bench.blocks(guess=bench.guess(3)) == [3]


def test_guesses_are_not_compared() -> None:
    bench = Bench(1)
    for _ in range(50):
        answered(bench, 0, guess=bench.guess(10))

    match = bench.match(bench.request())
    assert match.confidence is not None
    assert np.isnan(match.confidence.item(0))


def test_a_guess_that_is_right_more_often_counts_until_events_are_right_again() -> None:
    """As with a tokenizer that is not the engine's: what it has told never matches, and yet it has the prompt cached."""
    bench = Bench(2)
    bench.tell(0, stored([9, *TOKENS[:39]]))
    bench.tell(1, stored(TOKENS))
    counted = []
    for _ in range(17):
        answered(bench, 36)
        counted.append(bench.blocks(guess=bench.guess(8, 3, right=0.9)))

    assert counted == [[0, 10]] * 15 + [[8, 10]] * 2
    told = bench.match(bench.request(guess=bench.guess(8, right=0.9))).told
    assert told is not None
    assert told[:2].tolist() == [0, 1]

    bench.tell(0, stored(TOKENS))
    for _ in range(32):
        answered(bench, 36, guess=bench.guess(8, right=0.9))
    assert bench.blocks(guess=bench.guess(8, right=0.9)) == [10, 10]


def test_a_guess_that_is_right_as_often_does_not_count() -> None:
    bench = Bench(1)
    bench.tell(0, stored(TOKENS))
    for _ in range(20):
        answered(bench, 36)

    assert bench.blocks(guess=bench.guess(3, right=1.0)) == [10]


# --- configuration -------------------------------------------------------------------------------------------------------


def test_ranks_have_ports_of_their_own() -> None:
    bench = Bench(0)
    endpoint = Endpoint("pod-rank-3", "10.0.0.9", 8003)
    bench.fleet.add(endpoint)
    bench.producer.endpoint_added(endpoint)

    assert list(bench.sockets.subscribers) == ["tcp://10.0.0.9:5560"]


def test_one_socket_for_all_is_bound_with_the_topic() -> None:
    bench = Bench(2, kvEventsConfig={"zmqEndpoint": "tcp://*:5557", "discoverPods": False, "topicFilter": "kv@"})

    assert bench.sockets.bound == {"tcp://*:5557": b"kv@"}


def test_who_was_late_on_a_socket_for_all_is_believed_once_nothing_waits_there() -> None:
    bench = Bench(2, kvEventsConfig={"zmqEndpoint": "tcp://*:5557", "discoverPods": False, "topicFilter": "kv@"})
    shared = bench.sockets.subscribers["tcp://*:5557"]

    def publish(row: int, number: int, *, late_s: float = 0.0, more: bool) -> None:
        topic = f"kv@10.0.0.{row + 1}:8000@m".encode()
        payload = msgspec.msgpack.encode([bench.clock.now - late_s, [stored(TOKENS)], 0])
        shared.received([[topic, number.to_bytes(8, "big"), payload]], more=more)

    publish(0, 0, more=False)
    publish(0, 1, late_s=5.0, more=True)
    assert bench.blocks() == [0, 0]

    publish(1, 0, more=False)
    assert bench.blocks() == [10, 10]

    publish(0, 2, late_s=5.0, more=True)
    assert bench.blocks() == [0, 10]
    shared.received([], more=False)
    assert bench.blocks() == [10, 10]


def test_no_source_at_all_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Bench(0, kvEventsConfig={"discoverPods": False})

    assert "no KV events are read" in caplog.text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kvEventsConfig": {"zmqEndpoint": "tcp://*:5557"}}, "zmqEndpoint has no effect while discoverPods is on"),
        (
            {"indexerConfig": {"kvBlockIndexConfig": {"redisConfig": {}}}},
            "redisConfig and costAwareMemoryConfig have no",
        ),
    ],
)
def test_what_somebody_relies_on_and_has_no_effect_is_said(
    parameters: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    Bench(0, **parameters)

    assert message in caplog.text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"speculativeTTL": "soon"}, "speculativeTTL: "),
        ({"kvEventsConfig": {"maxLag": "soon"}}, "kvEventsConfig.maxLag: "),
        (
            {"tokenProcessorConfig": {"hashAlgorithm": "xxhash"}},
            "tokenProcessorConfig.hashSeed: xxhash has another seed",
        ),
        ({"indexerConfig": {"kvCacheBackendConfigs": []}}, "there has to be at least one"),
        (
            {"indexerConfig": {"kvCacheBackendConfigs": [{"name": "GPU", "weight": 1}, {"name": "gpu", "weight": 1}]}},
            r"kvCacheBackendConfigs\[1\].name: expected another tier",
        ),
        ({"fallbackProducerName": NAME}, "fallbackProducerName: is this plugin itself"),
    ],
)
def test_parameters_that_cannot_be(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bench(0, **parameters)


def test_the_deprecated_scorer_is_both_in_one() -> None:
    bench = Bench(cls=PrecisePrefixCacheScorer)
    bench.tell(0, stored(TOKENS[:20]))
    scorer = bench.producer
    assert isinstance(scorer, PrecisePrefixCacheScorer)
    request = bench.request()
    without = scorer.score(request, bench.fleet.candidates()).tolist()
    bench.match(request)

    assert (without, scorer.score(request, bench.fleet.candidates()).tolist()) == ([0, 0], [0.5, 0])


def test_the_hit_ratio_is_that_of_engines_that_tell() -> None:
    bench = Bench()
    bench.tell(0, stored(TOKENS[:20]))
    for row in (0, 1):
        request = bench.request(guess=bench.guess(10, 10))
        bench.match(request)
        bench.producer.pre_request(request, picked(bench.fleet, row))

    assert value(bench.recorder, "kv_cache_index_hit_ratio_sum") == 0.5
    assert value(bench.recorder, "kv_cache_index_hit_ratio_count") == 1


def test_its_state_says_who_is_believed_and_what_they_hold() -> None:
    bench = Bench(1)
    bench.tell(0, stored(TOKENS), stored(TOKENS[:8], medium="CPU"))
    state: Any = bench.producer.dump_state()

    assert state["blocks"] == 12
    assert state["publishers"] == [
        {
            "name": "s0 rank 0",
            "events": "tcp://10.0.0.1:5557",
            "replay": "",
            "trust": "all",
            "last_message": 0,
            "delay_s": 0.0,
            "block_size_tokens": 4,
            "blocks": {"gpu": 10, "cpu": 2},
        }
    ]
    msgspec.json.encode(state)
