from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_HIT_TOKENS,
    CACHE_NUM_BLOCKS,
    METRICS_UPDATED_S,
    PREFIX_MATCH,
    Endpoint,
    Fleet,
    Metric,
    PrefixMatch,
    Request,
    Response,
    Termination,
    Usage,
    data_key,
)
from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from tests.support.plugins import Clock, NoMetric, NoMetrics, make_fleet, make_handle, make_plugin
from tests.support.scheduling import ended, make_request, picked

BLOCK = b"0123456789abcdef" * 16  # 256 bytes, 64 tokens


def make(fleet: Fleet, *, clock: Clock | None = None, **parameters: object) -> ApproxPrefixCacheProducer:
    handle = make_handle(fleet, name=ApproxPrefixCacheProducer.type, clock=clock)
    return make_plugin(ApproxPrefixCacheProducer, handle=handle, **parameters)


def look(producer: ApproxPrefixCacheProducer, request: Request) -> PrefixMatch:
    producer.produce(request, producer.handle.fleet.candidates())
    match: PrefixMatch = request.data[data_key(PREFIX_MATCH)]
    return match


def send(
    producer: ApproxPrefixCacheProducer,
    request: Request,
    row: int = 0,
    response: Response | None = None,
    **others: int | None,
) -> None:
    look(producer, request)
    producer.pre_request(request, picked(producer.handle.fleet, row, **others))
    if response is not None:
        producer.response_complete(request, response)


def rows(producer: ApproxPrefixCacheProducer, request: Request) -> list[float]:
    return look(producer, request).matched_blocks[producer.handle.fleet.candidates().rows].tolist()


def broken() -> Response:
    """A response whose headers came, and then no body."""
    response = ended(200, Termination.ERROR)
    response.body_seen = True
    return response


def test_a_prompt_is_expected_where_it_was_sent_at_once() -> None:
    producer = make(make_fleet(2))
    send(producer, make_request(BLOCK * 3), row=1)

    match = look(producer, make_request(BLOCK * 3 + b"more"))

    assert (match.total_blocks, match.block_size_tokens) == (3, 64)
    assert match.matched_blocks[:2].tolist() == [0, 3]


def test_only_the_common_beginning_counts() -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(BLOCK * 2 + b"x" * 256 + BLOCK))

    assert rows(producer, make_request(BLOCK * 4)) == [2]


@pytest.mark.parametrize("other", [{"model": "n"}, {"cache_salt": "s"}])
def test_another_model_or_salt_shares_nothing(other: dict[str, str]) -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(BLOCK))

    assert rows(producer, make_request(BLOCK, **other)) == [0]


def test_several_prompts_are_summed() -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(BLOCK * 2))
    match = look(producer, make_request(BLOCK * 3, b"y" * 512, b"short"))

    assert (match.matched_blocks[0], match.total_blocks) == (2, 5)


def test_the_first_endpoint_of_every_profile_learns() -> None:
    producer = make(make_fleet(3))
    send(producer, make_request(BLOCK), row=0, prefill=2, encode=None)

    assert rows(producer, make_request(BLOCK)) == [1, 0, 1]


@pytest.mark.parametrize(
    ("response", "left"),
    [
        pytest.param(ended(200), 1, id="served"),
        pytest.param(ended(200, Termination.CLIENT_DISCONNECT), 1, id="the client left after the answer began"),
        pytest.param(ended(0), 1, id="complete, status unknown"),
        pytest.param(ended(0, Termination.CLIENT_DISCONNECT), 0, id="the client left before"),
        pytest.param(ended(0, Termination.EVICTED), 0, id="evicted before"),
        pytest.param(ended(503, Termination.ERROR), 0, id="error"),
        pytest.param(ended(503), 0, id="refused by the engine"),
        pytest.param(broken(), 0, id="broke down before the first token"),
    ],
)
def test_what_was_not_served_is_forgotten(response: Response, left: int) -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(BLOCK), response=response)

    assert rows(producer, make_request(BLOCK)) == [left]


def test_a_failure_takes_back_only_what_the_request_itself_added() -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(BLOCK), response=ended(200))
    send(producer, make_request(BLOCK * 3), response=ended(503))

    assert rows(producer, make_request(BLOCK * 3)) == [1]


def test_a_failure_leaves_what_another_request_has_brought_too() -> None:
    producer = make(make_fleet(1))
    first, second = make_request(BLOCK * 2), make_request(BLOCK * 2)
    send(producer, first)
    send(producer, second)

    producer.response_complete(first, ended(503))
    assert rows(producer, make_request(BLOCK * 2)) == [2]
    producer.response_complete(second, ended(0, Termination.ERROR))
    assert rows(producer, make_request(BLOCK * 2)) == [0]


def test_all_endpoints_share_the_most_blocks_there_may_be() -> None:
    producer = make(make_fleet(2), maxBlocks=7)
    for row in (0, 1):
        send(producer, make_request(BLOCK * 20), row=row)

    assert rows(producer, make_request(BLOCK * 20)) == [3, 3]


def test_an_endpoint_that_leaves_is_forgotten_and_its_row_starts_empty() -> None:
    fleet = make_fleet(1)
    producer = make(fleet)
    gone = fleet.candidates().endpoints[0]
    request = make_request(BLOCK)
    send(producer, request)
    producer.endpoint_removed(gone)
    fleet.remove(gone)
    fleet.add(Endpoint("new", "10.0.0.9", 8000))

    assert rows(producer, make_request(BLOCK)) == [0]
    send(producer, make_request(BLOCK))
    producer.response_complete(request, ended(503))
    assert rows(producer, make_request(BLOCK)) == [1]


# --- proved right or wrong -------------------------------------------------------------------------------------------------


def answered(cached: int | None, *, prompt: int = 320, served: str | None = None) -> Response:
    response = ended(200)
    response.usage = Usage(prompt_tokens=prompt, cached_tokens=cached)
    response.served_endpoint = served
    return response


def confidence(producer: ApproxPrefixCacheProducer, row: int = 0) -> float:
    match = look(producer, make_request())
    assert match.confidence is not None
    return match.confidence.item(row)


LONG = BLOCK * 5  # 320 tokens


def test_answers_make_the_confidence() -> None:
    producer = make(make_fleet(2))
    send(producer, make_request(LONG), row=1, response=answered(0))
    assert math.isnan(confidence(producer, 1))

    send(producer, make_request(LONG), row=1, response=answered(304))

    assert confidence(producer, 1) == 1
    assert math.isnan(confidence(producer, 0))


@pytest.mark.parametrize(
    ("first", "response", "counts"),
    [
        pytest.param(answered(0), answered(0), True, id="wrong"),
        pytest.param(answered(0), answered(None), True, id="left out by an engine that tells it"),
        pytest.param(answered(None), answered(None), False, id="left out by an engine that does not"),
        pytest.param(answered(0), answered(0, served="10.0.0.9:8000"), False, id="served by another"),
        pytest.param(answered(0), answered(0, served="10.0.0.1:8000"), True, id="served as chosen"),
        pytest.param(answered(0), ended(200), False, id="no usage"),
        pytest.param(answered(0), ended(503), False, id="failed"),
        pytest.param(answered(0), answered(0, prompt=0), False, id="no prompt tokens"),
    ],
)
def test_which_answers_count(first: Response, response: Response, counts: bool) -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(LONG), response=first)
    send(producer, make_request(LONG), response=response)

    assert math.isnan(confidence(producer)) is not counts


def test_what_another_request_is_only_just_bringing_proves_nothing() -> None:
    producer = make(make_fleet(1))
    first, second = make_request(LONG), make_request(LONG)
    send(producer, first)
    send(producer, second)
    producer.response_complete(first, answered(0))
    producer.response_complete(second, answered(0))

    assert math.isnan(confidence(producer))


@pytest.mark.parametrize(
    "prompts", [(LONG, LONG + BLOCK), (LONG * 20,)], ids=["several prompts", "longer than looked at"]
)
def test_prompts_that_cannot_be_compared_are_not(prompts: tuple[bytes, ...]) -> None:
    producer = make(make_fleet(1), maxPrefixTokensToMatch=640)
    for _ in range(2):
        send(producer, make_request(*prompts), response=answered(0, prompt=640))

    assert math.isnan(confidence(producer))


def test_prefill_elsewhere_is_not_compared() -> None:
    producer = make(make_fleet(2))
    for _ in range(2):
        send(producer, make_request(LONG), row=0, response=answered(0), prefill=1)

    assert math.isnan(confidence(producer))


def teach(producer: ApproxPrefixCacheProducer, count: int) -> list[bytes]:
    """Prompts that endpoint 0 has read."""
    made = [bytes([i]) * 256 + LONG[256:] for i in range(count)]
    for prompt in made:
        send(producer, make_request(prompt), response=answered(0))
    return made


@pytest.mark.parametrize(("correct", "left"), [(True, 0), (False, 1)])
def test_an_engine_that_has_restarted_is_found_out(
    correct: bool, left: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    producer = make(make_fleet(2), selfCorrect=correct)
    known = teach(producer, 10)
    for prompt in known[:3]:
        send(producer, make_request(prompt), response=answered(0))

    assert [bool(rows(producer, make_request(p))[0]) for p in known[3:]] == [bool(left)] * 7
    assert caplog.records[-1].fields == {  # type: ignore[attr-defined]
        "endpoint": "s0",
        "address": "10.0.0.1:8000",
        "cause": "it has restarted or its cache was reset",
        "action": "purge" if correct else "none",
        "blocks_dropped": 50 if correct else 0,
        "answers": 13,
        "confidence": 0.0,
        "finding": "it has restarted or its cache was reset",
    }


def test_an_engine_with_a_smaller_cache_than_told_is_believed_less() -> None:
    producer = make(make_fleet(2), lruCapacityPerServer=200)
    known = teach(producer, 20)
    for old, recent in zip(known[:8], known[12:], strict=True):
        send(producer, make_request(recent), response=answered(300))
        send(producer, make_request(old), response=answered(0))

    state = producer.dump_state()
    assert isinstance(state, dict)
    assert state["endpoints"]["s0"] == {
        "blocks": 50,
        "capacity": 50,
        "answers": 36,
        "confidence": 0.5,
        "finding": "its cache is smaller than it says, or others use it, too",
    }
    assert state["endpoints"]["s1"] == {"blocks": 0, "capacity": 200}
    for capacity in (100, 200):
        for _ in range(32):
            send(producer, make_request(known[-1]), response=answered(300))
        state = producer.dump_state()
        assert isinstance(state, dict)
        assert state["endpoints"]["s0"]["capacity"] == capacity


def test_another_endpoint_in_the_same_row_starts_without_a_record() -> None:
    fleet = make_fleet(1)
    producer = make(fleet)
    for _ in range(2):
        send(producer, make_request(LONG), response=answered(300))
    gone = fleet.candidates().endpoints[0]
    producer.endpoint_removed(gone)
    fleet.remove(gone)
    fleet.add(Endpoint("new", "10.0.0.9", 8000))

    assert math.isnan(confidence(producer))


# --- by the engine's metrics, where answers do not tell --------------------------------------------------------------------


def send_many(producer: ApproxPrefixCacheProducer, count: int, *, found: int, response: Response) -> None:
    """The same prompt again and again; the engine's page, read after each, shows `found` more tokens."""
    fleet = producer.handle.fleet
    endpoint = fleet.candidates().endpoints[0]
    for _ in range(count):
        hits = endpoint.attributes[CACHE_HIT_TOKENS]
        assert isinstance(hits, float)
        send(producer, make_request(LONG * 10), response=response)
        endpoint.attributes[CACHE_HIT_TOKENS] = hits + found
        fleet.columns[METRICS_UPDATED_S][endpoint.row] += 0.05


def counting(**parameters: object) -> ApproxPrefixCacheProducer:
    """Of one endpoint whose page shows a number of cached tokens."""
    fleet = make_fleet(1, **{METRICS_UPDATED_S: [0.0]})
    fleet.candidates().endpoints[0].attributes[CACHE_HIT_TOKENS] = 1000.0
    return make(fleet, **parameters)


@pytest.mark.parametrize(
    "response", [ended(200), answered(None, prompt=3200)], ids=["no usage", "no cached tokens in it"]
)
def test_many_requests_are_compared_with_the_metrics(response: Response) -> None:
    producer = counting()

    send_many(producer, 1 + 15, found=3100, response=response)
    assert math.isnan(confidence(producer))
    send_many(producer, 1, found=3100, response=response)

    assert confidence(producer) == 1


def test_metrics_that_do_not_grow_prove_it_wrong() -> None:
    producer = counting()
    send_many(producer, 1 + 16 + 16 + 15, found=0, response=ended(200))
    assert rows(producer, make_request(LONG * 10)) == [50]
    send_many(producer, 1, found=0, response=ended(200))

    assert confidence(producer) == 0
    assert rows(producer, make_request(LONG * 10)) == [0]


@pytest.mark.parametrize("response", [ended(200), answered(3000, prompt=3200)], ids=["no usage", "usage"])
def test_metrics_that_begin_anew_are_a_restart(response: Response) -> None:
    producer = counting()
    send_many(producer, 5, found=3000, response=response)
    producer.handle.fleet.candidates().endpoints[0].attributes[CACHE_HIT_TOKENS] = 0.0
    send_many(producer, 1, found=0, response=response)

    assert rows(producer, make_request(LONG * 10)) == [0]


def test_a_restart_that_answers_have_shown_is_no_news_in_the_metrics() -> None:
    producer = counting()
    send_many(producer, 5, found=3000, response=answered(3000, prompt=3200))
    send_many(producer, 4, found=0, response=answered(0, prompt=3200))  # the page is still the old one
    producer.handle.fleet.candidates().endpoints[0].attributes[CACHE_HIT_TOKENS] = 0.0
    send_many(producer, 1, found=0, response=answered(3000, prompt=3200))

    assert rows(producer, make_request(LONG * 10)) == [50]


def test_prompts_that_were_prefilled_elsewhere_begin_the_comparison_anew() -> None:
    fleet = make_fleet(2, **{METRICS_UPDATED_S: [0.0, 0.0]})
    fleet.candidates().endpoints[0].attributes[CACHE_HIT_TOKENS] = 1000.0
    producer = make(fleet)
    send_many(producer, 1 + 15, found=3100, response=ended(200))
    send(producer, make_request(LONG * 10), row=0, response=ended(200), prefill=1)
    send_many(producer, 1 + 15, found=3100, response=ended(200))

    assert math.isnan(confidence(producer))


def test_while_no_page_is_read_nothing_is_compared() -> None:
    producer = counting()
    for _ in range(100):
        send(producer, make_request(LONG * 10), response=ended(200))

    assert math.isnan(confidence(producer))


# --- saved and loaded ------------------------------------------------------------------------------------------------------


def saved(producer: ApproxPrefixCacheProducer) -> memoryview:
    return memoryview(b"".join(producer.save_state()))


def taught(fleet: Fleet, **parameters: object) -> ApproxPrefixCacheProducer:
    producer = make(fleet, **parameters)
    send(producer, make_request(BLOCK * 3), row=0, response=ended(200))
    send(producer, make_request(BLOCK * 2), row=1, response=ended(200))
    return producer


def test_endpoints_that_come_back_under_their_address_hold_what_they_held() -> None:
    state = saved(taught(make_fleet(2)))
    fleet = Fleet()
    after = make(fleet)
    after.load_state(state, version=ApproxPrefixCacheProducer.state_version)
    for name, address in (("other", "10.0.0.7"), ("renamed", "10.0.0.2"), ("s0", "10.0.0.1")):
        fleet.add(Endpoint(name, address, 8000))
        after.endpoint_added(fleet.candidates().endpoints[-1])

    assert rows(after, make_request(BLOCK * 3)) == [0, 2, 3]


def test_an_endpoint_that_never_comes_back_is_saved_for_a_while_and_then_dropped() -> None:
    clock = Clock()
    after = make(Fleet(), clock=clock)
    after.load_state(saved(taught(make_fleet(2))), version=ApproxPrefixCacheProducer.state_version)

    waiting = saved(after)
    clock.now += 900
    late = saved(after)

    assert len(waiting) > len(late)
    fleet = make_fleet(1)
    again = make(fleet, clock=clock)
    again.load_state(waiting, version=ApproxPrefixCacheProducer.state_version)
    clock.now += 900
    again.endpoint_added(fleet.candidates().endpoints[0])
    assert rows(again, make_request(BLOCK * 3)) == [0]


def test_a_successor_goes_on_with_the_same_index_and_its_requests() -> None:
    fleet = make_fleet(2)
    before = taught(fleet)
    under_way = make_request(BLOCK * 6)
    send(before, under_way, row=0)
    after = make(fleet, lruCapacityPerServer=100)
    after.take_over(before)
    for endpoint in fleet.candidates():
        after.endpoint_added(endpoint)

    assert rows(after, make_request(BLOCK * 6)) == [6, 2]
    before.response_complete(under_way, ended(503))
    assert rows(after, make_request(BLOCK * 6)) == [3, 2]
    gone = fleet.candidates().endpoints[0]
    for producer in (before, after):
        producer.endpoint_removed(gone)
    assert rows(after, make_request(BLOCK * 6)) == [0, 2]


def test_what_a_version_with_blocks_of_one_size_saved_is_refused() -> None:
    state = saved(taught(make_fleet(2)))

    with pytest.raises(ValueError, match="one size"):
        make(make_fleet(2)).load_state(state, version=1)


def test_long_prompts_are_counted_in_whole() -> None:
    fleet = make_fleet(2)
    producer = make(fleet)
    long = b"".join(i.to_bytes(4, "little") * 64 for i in range(860))
    send(producer, make_request(long), response=ended())

    assert rows(producer, make_request(long)) == [860, 0]
    assert rows(producer, make_request(long + BLOCK * 3)) == [860, 0]
    assert rows(producer, make_request(long[: 256 * 700] + BLOCK * 3)) == [688, 0]
    assert rows(producer, make_request(long[: 256 * 60] + BLOCK * 3)) == [60, 0]


def test_blocks_of_another_size_are_refused() -> None:
    state = saved(taught(make_fleet(2), autoTune=False, blockSizeTokens=32))

    with pytest.raises(ValueError, match="its blocks have 32 tokens, not 64"):
        make(make_fleet(2)).load_state(state, version=ApproxPrefixCacheProducer.state_version)


def test_a_size_that_an_engine_told_counts_until_it_is_told_again() -> None:
    fleet, clock = make_fleet(1), Clock()
    fleet.columns[CACHE_BLOCK_SIZE][0] = 128
    before = make(fleet)
    send(before, make_request(BLOCK * 4), response=ended(200))
    fleet.columns[CACHE_BLOCK_SIZE][0] = 0
    after = make(fleet, clock=clock)
    after.load_state(saved(before), version=ApproxPrefixCacheProducer.state_version)
    after.endpoint_added(fleet.candidates().endpoints[0])

    assert rows(after, make_request(BLOCK * 4)) == [2]
    fleet.columns[CACHE_BLOCK_SIZE][0] = 64
    clock.now += 1
    assert rows(after, make_request(BLOCK * 4)) == [0]


@pytest.mark.parametrize(
    ("parameters", "engine", "size"),
    [
        pytest.param({}, 0, 64, id="default"),
        pytest.param({}, 16, 64, id="raised to 64"),
        pytest.param({}, 48, 96, id="in a multiple"),
        pytest.param({}, 128, 128, id="taken over"),
        pytest.param({"blockSizeTokens": 16}, 0, 16, id="given, no engine known"),
        pytest.param({"blockSizeTokens": 16}, 32, 64, id="the engine wins"),
        pytest.param({"blockSizeTokens": 16, "autoTune": False}, 128, 16, id="given exactly"),
        pytest.param({"blockSize": 32, "autoTune": False}, 0, 32, id="old name"),
        pytest.param({"autoTune": False}, 128, 64, id="nothing given"),
    ],
)
def test_block_size(parameters: dict[str, object], engine: float, size: int) -> None:
    producer = make(make_fleet(2, **{CACHE_BLOCK_SIZE: [0, engine]}), **parameters)

    assert look(producer, make_request()).block_size_tokens == size


def test_a_block_size_that_becomes_known_is_used_soon() -> None:
    fleet, clock = make_fleet(1), Clock()
    producer = make(fleet, clock=clock)
    look(producer, make_request())
    fleet.columns[CACHE_BLOCK_SIZE][0] = 128
    clock.now += 1.0

    assert look(producer, make_request()).block_size_tokens == 128


@pytest.mark.parametrize(
    ("parameters", "engine_blocks", "kept"),
    [
        pytest.param({}, 32, 8, id="512 tokens of the engine's are 8 blocks of 64"),
        pytest.param({"lruCapacityPerServer": 3}, 0, 3, id="given, engine unknown"),
        pytest.param({"lruCapacityPerServer": 3, "autoTune": False}, 32, 3, id="given"),
        pytest.param({"lruCapacityPerServer": 0}, 0, 20, id="0 means the default"),
    ],
)
def test_capacity(parameters: dict[str, object], engine_blocks: float, kept: int) -> None:
    producer = make(make_fleet(1, **{CACHE_BLOCK_SIZE: [16], CACHE_NUM_BLOCKS: [engine_blocks]}), **parameters)
    send(producer, make_request(BLOCK * 20))

    assert rows(producer, make_request(BLOCK * 20)) == [kept]


@pytest.mark.parametrize(
    ("parameters", "blocks"),
    [
        ({"maxPrefixTokensToMatch": 128}, 2),
        ({"maxPrefixTokensToMatch": 128, "maxPrefixBlocksToMatch": 1}, 2),
        ({"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 3}, 3),
        ({"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 0}, 5),
    ],
)
def test_the_matched_length_is_limited(parameters: dict[str, object], blocks: int) -> None:
    assert look(make(make_fleet(1), **parameters), make_request(BLOCK * 5)).total_blocks == blocks


def test_a_request_without_prompts_matches_nothing_and_teaches_nothing() -> None:
    producer = make(make_fleet(1))
    send(producer, make_request(), response=ended(200))

    assert look(producer, make_request()).total_blocks == 0


def test_data_carry_the_name_of_the_instance() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(ApproxPrefixCacheProducer, handle=make_handle(fleet, name="mine"))

    assert producer.produces() == ("PrefixCacheMatchInfo/mine",)


@pytest.mark.parametrize("parameters", [{"blockSizeTokens": 0}, {"maxPrefixTokensToMatch": -1}, {"lru": 5}])
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_plugin(ApproxPrefixCacheProducer, **parameters)


class Recorded(NoMetric):
    """Remembers what a gauge was set to or a histogram was given."""

    def __init__(self, buckets: Sequence[float] = ()) -> None:
        self.buckets = tuple(buckets)
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)

    def observe(self, amount: float) -> None:
        self.values.append(amount)


class RecordedMetrics(NoMetrics):
    """Makes metrics that remember, by their names without the common beginning."""

    def __init__(self) -> None:
        self.made: dict[str, Recorded] = {}

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric:
        return self.histogram(name, documentation, labels)

    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Metric:
        return self.made.setdefault(name.removeprefix("llm_d_epp_prefix_indexer_"), Recorded(buckets))


def test_hits_of_the_chosen_endpoint_and_the_size_are_measured() -> None:
    metrics = RecordedMetrics()
    handle = msgspec.structs.replace(make_handle(make_fleet(2), name=ApproxPrefixCacheProducer.type), metrics=metrics)
    producer = make_plugin(ApproxPrefixCacheProducer, handle=handle)
    send(producer, make_request(BLOCK), row=0)
    send(producer, make_request(BLOCK * 4), row=0)
    send(producer, make_request(BLOCK * 4), row=1)
    producer.endpoint_removed(handle.fleet.candidates().endpoints[0])

    assert metrics.made["hit_ratio"].values == [0, 0.25, 0]
    assert metrics.made["hit_bytes"].values == [0, 256, 0]
    assert metrics.made["size"].values == [0, 1, 4, 8, 4]
    assert metrics.made["llm_epp_prefix_index_bytes"].values == [0, 4 * 90]
    assert metrics.made["hit_ratio"].buckets == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    assert metrics.made["hit_bytes"].buckets == (
        0,
        16,
        32,
        64,
        128,
        256,
        512,
        1024,
        2048,
        4096,
        8192,
        16384,
        32768,
        65536,
    )


def test_prompts_without_a_whole_block_are_not_measured() -> None:
    metrics = RecordedMetrics()
    handle = msgspec.structs.replace(make_handle(make_fleet(1), name=ApproxPrefixCacheProducer.type), metrics=metrics)
    send(make_plugin(ApproxPrefixCacheProducer, handle=handle), make_request(b"short"))

    assert metrics.made["hit_ratio"].values == []


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_replaced_producer_gives_its_index_up_unless_another_goes_on_with_it(taken_over: bool) -> None:
    fleet = make_fleet(1)
    old, new = (make_plugin(ApproxPrefixCacheProducer, fleet) for _ in range(2))
    send(old, make_request(BLOCK * 4), row=0)
    if taken_over:
        new.take_over(old)

    for _ in old.retire():
        pass

    assert len((new if taken_over else old)._index) == (4 if taken_over else 0)
