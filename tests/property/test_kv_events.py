"""KV events: whatever bytes come, and whatever is lost on the way, the index never claims what the engine does not hold."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_plugins.kv_events.cache import PublishedCache, Tally
from epp_plugins.kv_events.events import Malformed, MalformedBatch, decode
from epp_plugins.kv_events.feed import Counts, Feed, Trust
from epp_plugins.kv_events.index import BlockIndex, Found
from epp_plugins.kv_events.keys import TokenKeys
from tests.support.kv_fixtures import captures, lora_frames, packed
from tests.support.kv_index import consistent
from tests.support.plugins import Clock

REAL = [p for _, _, p in lora_frames()] + [p for c in captures()[:2] for p in c.payloads]
_TIERS = {"gpu": 1.0, "cpu": 0.8}

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_NAMES = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
)
event_like = st.fixed_dictionaries(
    {"type": st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Other"])},
    optional=dict.fromkeys((*_NAMES, "group_idx", "kv_cache_spec_kind"), plain),
) | st.tuples(st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Other"]), plain, plain, plain, plain)


class Setup:
    def __init__(self) -> None:
        self.index = BlockIndex(_TIERS, capacity=10_000)
        self.source = self.index.add_source(0)
        self.cache = PublishedCache(self.index, self.source, TokenKeys(), Tally())


@given(
    st.binary(max_size=300) | st.lists(event_like | plain, max_size=4).map(lambda e: msgspec.msgpack.encode([1.0, e]))
)
def test_any_bytes_are_read_or_refused_in_one_way(payload: bytes) -> None:
    try:
        batch = decode(payload)
    except MalformedBatch:
        return
    setup = Setup()
    setup.cache.apply(batch)

    assert consistent(setup.index, [setup.source])


@given(st.sampled_from(REAL), st.integers(0, 2**31), st.integers(1, 12))
def test_damaged_real_messages_leave_a_consistent_index(payload: bytes, seed: int, damages: int) -> None:
    rng = random.Random(seed)
    damaged = bytearray(payload)
    for _ in range(damages):
        place = rng.randrange(len(damaged))
        match rng.randrange(3):
            case 0:
                damaged[place] = rng.randrange(256)
            case 1:
                del damaged[place]
            case _:
                damaged.insert(place, rng.randrange(256))
    setup = Setup()
    feed = Feed(setup.cache, can_replay=False, clock=Clock(), counts=Counts())
    feed.connected()

    for number, message in enumerate((*REAL[:4], bytes(damaged), *REAL[4:8])):
        feed.message(number, message)

    assert consistent(setup.index, [setup.source])
    assert feed.last == 8


@given(st.lists(plain, max_size=3))
def test_events_that_are_no_events_count_as_lost_blocks(events: list[object]) -> None:
    """Texts, numbers, and containers without a type."""
    batch = decode(msgspec.msgpack.encode([0.0, [e for e in events if not isinstance(e, dict | list)]]))

    assert all(isinstance(event, Malformed) and event.loses_blocks for event in batch.events)


class Engine:
    """A cache of one-token blocks that publishes what happens to it. `truth[n]` is what it held after message `n`."""

    def __init__(self, rng: random.Random, started_s: float, *, keeps: int) -> None:
        self.rng = rng
        self.time_s = started_s
        self.keeps = keeps
        self.held: Counter[int] = Counter()
        self.sent: list[bytes] = []
        self.truth: list[frozenset[int]] = []

    def step(self) -> tuple[int, bytes]:
        events: list[object] = []
        for _ in range(self.rng.randint(1, 3)):
            token = self.rng.randrange(6)
            event = self.rng.random()
            if event < 0.6:
                self.held[token] += 1
                events.append(["BlockStored", [token + 1], None, [token], 1])
            elif event < 0.97:
                if self.held[token]:
                    self.held[token] -= 1
                    events.append({"type": "BlockRemoved", "block_hashes": [token + 1], "medium": None})
            else:
                self.held.clear()
                events.append({"type": "AllBlocksCleared"})
        self.time_s += 1.0
        self.sent.append(msgspec.msgpack.encode([self.time_s, events, 0]))
        self.truth.append(frozenset(t for t, n in self.held.items() if n))
        return len(self.sent) - 1, self.sent[-1]

    def kept_from(self, first: int) -> list[tuple[int, bytes]]:
        return [(n, p) for n, p in enumerate(self.sent) if n >= first and n >= len(self.sent) - self.keeps]


def indexed(setup: Setup) -> frozenset[int]:
    keys = TokenKeys()
    found = set()
    for token in range(6):
        match = Found(1)
        chain = keys.of_prompt(packed([token]), 1, adapter="", extras={}) or []
        setup.index.match(chain, setup.source.bit, match)
        if match.blocks[0]:
            found.add(token)
    return frozenset(found)


@settings(max_examples=300)
@given(st.integers(0, 2**31), st.sampled_from([2, 5, 1000]), st.floats(0, 0.4))
def test_what_is_believed_is_true_however_much_is_lost(seed: int, keeps: int, loss: float) -> None:
    """With replays: through losses, lost connections, restarts, replays that fail, and buffers that have rolled over."""
    rng = random.Random(seed)
    setup = Setup()
    feed = Feed(setup.cache, can_replay=True, clock=Clock(), counts=Counts())
    engine = Engine(rng, 0.0, keeps=keeps)
    feed.connected()
    connected = True
    for _ in range(60):
        event = rng.random()
        if event < 0.06 and connected:
            feed.disconnected()
            connected = False
        elif event < 0.12:
            engine = Engine(rng, engine.time_s + 10, keeps=keeps)
            if connected:
                feed.disconnected()
            connected = False
        elif not connected and event < 0.5:
            feed.connected()
            connected = True
        else:
            number, payload = engine.step()
            if connected and rng.random() >= loss:
                feed.message(number, payload)
        while connected and feed.wanted is not None and rng.random() < 0.8:
            run_replay(feed, engine, rng)
        if feed.trust is not Trust.NONE and feed.last is not None and feed.last >= 0:
            truth = engine.truth[feed.last]
            assert indexed(setup) <= truth
            assert feed.trust is Trust.SOME or indexed(setup) == truth
    assert consistent(setup.index, [setup.source])


def run_replay(feed: Feed, engine: Engine, rng: random.Random) -> None:
    first = feed.wanted
    assert first is not None
    for number, payload in engine.kept_from(first):
        if rng.random() < 0.02:
            feed.replay_failed()
            return
        if not feed.replayed(number, payload):
            return
    feed.replay_ended()


@given(st.integers(0, 2**31), st.floats(0, 0.4))
def test_without_replays_what_is_believed_is_true_while_the_engine_is_the_same(seed: int, loss: float) -> None:
    rng = random.Random(seed)
    setup = Setup()
    feed = Feed(setup.cache, can_replay=False, clock=Clock(), counts=Counts())
    engine = Engine(rng, 0.0, keeps=0)
    feed.connected()
    for _ in range(40):
        number, payload = engine.step()
        if rng.random() >= loss:
            feed.message(number, payload)
        if feed.last is not None:
            assert indexed(setup) <= engine.truth[feed.last]
            assert feed.trust is Trust.SOME or indexed(setup) == engine.truth[feed.last]


@given(st.integers(0, 2**31))
def test_the_index_agrees_with_a_plain_list_of_who_holds_what(seed: int) -> None:
    rng = random.Random(seed)
    index = BlockIndex(_TIERS, capacity=10_000)
    sources = [index.add_source(rng.randrange(3)) for _ in range(4)]
    model: list[dict[str, Counter[int]]] = [{tier: Counter() for tier in _TIERS} for _ in sources]
    for _ in range(80):
        at = rng.randrange(len(sources))
        tier = rng.choice(list(_TIERS))
        blocks = [rng.randrange(8) for _ in range(rng.randint(1, 4))]
        match rng.randrange(8):
            case 0:
                index.clear(sources[at])
                model[at] = {tier: Counter() for tier in _TIERS}
            case 1 | 2 | 3:
                index.remove(sources[at], tier, blocks)
                for block in blocks:
                    model[at][tier][block] -= model[at][tier][block] > 0
            case _:
                index.store(sources[at], tier, blocks, [100 + b for b in blocks])
                model[at][tier].update(blocks)
    chain = list(range(rng.randint(1, 8)))
    found = Found(3)
    index.match([100 + b for b in chain], sum(s.bit for s in sources), found)

    best = [(0, 0.0)] * 3
    for source, held in zip(sources, model, strict=True):
        depth = weight = 0.0
        for block in chain:
            tiers = [w for tier, w in _TIERS.items() if held[tier][block]]
            if not tiers:
                break
            depth, weight = depth + 1, weight + max(tiers)
        row = source.row
        best[row] = (max(best[row][0], int(depth)), max(best[row][1], weight))
    assert found.blocks.tolist() == [d for d, _ in best]
    assert [round(m, 6) for m in found.matched.tolist()] == [round(w, 6) for _, w in best]
    assert consistent(index, sources)
