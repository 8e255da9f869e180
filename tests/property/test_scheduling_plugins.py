"""What must hold for every scheduling plugin whatever the model servers report and in whatever order things happen."""

from __future__ import annotations

from array import array
from collections import Counter
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_REQUESTS,
    IN_FLIGHT_TOKENS,
    PREFIX_MATCH,
    Endpoint,
    Filter,
    Fleet,
    InFlightLoad,
    Picker,
    PrefixMatch,
    Request,
    SaturationDetector,
    Scorer,
    Termination,
    data_key,
)
from epp_plugins import prefix_chain
from epp_plugins.builtin_scheduling import SCHEDULING
from epp_plugins.detectors.concurrency_detector import ConcurrencyDetector
from epp_plugins.prefix_chain import Chain, beginning, size_of
from epp_plugins.prefix_index import PrefixIndex
from epp_plugins.producers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from epp_plugins.producers.inflight_load_producer import InflightLoadProducer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import ended, make_request, picked

SCORERS = [p for p in SCHEDULING if issubclass(p, Scorer)]
FILTERS = [p for p in SCHEDULING if issubclass(p, Filter)]
PICKERS = [p for p in SCHEDULING if issubclass(p, Picker)]
DETECTORS = [p for p in SCHEDULING if issubclass(p, SaturationDetector)]
NEEDED: dict[str, dict[str, Any]] = {
    "by-label": {"label": "a", "validValues": ["1"]},
    "utilization-filter": {"conditions": [{"metric": "waiting-queue", "maxValue": 5}]},
}

# Metrics pages hold anything; beyond this size doubles themselves give up.
values = st.one_of(st.sampled_from([0.0, 1.0, -1.0, nan, inf, -inf]), st.floats(-1e12, 1e12), st.floats(0, 1))


@st.composite
def situations(draw: st.DrawFn, columns: st.SearchStrategy[float] = values) -> tuple[Fleet, Request]:
    """A fleet with any numbers in all its columns, and a request with or without data about it."""
    count = draw(st.integers(1, 9))
    fleet = make_fleet(count)
    for column in fleet.columns.values():
        column[:count] = draw(st.lists(columns, min_size=count, max_size=count))
    request = make_request(
        draw(st.binary(max_size=64)), headers={"test-epp-endpoint-selection": "10.0.0.1,10.0.0.3:8000"}
    )
    if draw(st.booleans()):
        blocks = draw(st.integers(0, 4))
        matched = np.array(draw(st.lists(st.integers(0, blocks), min_size=16, max_size=16)), dtype=float)
        request.data[data_key(PREFIX_MATCH)] = PrefixMatch(matched, blocks, 64)
        uncached = np.array(draw(st.lists(st.integers(0, 100_000), min_size=16, max_size=16)), dtype=float)
        request.data[data_key(IN_FLIGHT_LOAD)] = InFlightLoad(uncached)
    return fleet, request


@pytest.mark.parametrize("kind", SCORERS, ids=lambda p: p.type)
@given(situation=situations())
@settings(max_examples=40)
def test_scores_are_one_number_in_range_per_candidate(kind: type[Scorer], situation: tuple[Fleet, Request]) -> None:
    fleet, request = situation
    before = {name: column.copy() for name, column in fleet.columns.items()}
    candidates = fleet.candidates()
    scores = np.asarray(make_plugin(kind, fleet).score(request, candidates))

    assert scores.shape == (len(candidates),)
    assert ((scores >= 0) & (scores <= 1)).all()
    for name, column in fleet.columns.items():
        assert np.array_equal(column, before[name], equal_nan=True), name


@pytest.mark.parametrize("kind", FILTERS, ids=lambda p: p.type)
@given(situation=situations())
@settings(max_examples=40)
def test_filters_answer_for_each_candidate_and_never_add_one(
    kind: type[Filter], situation: tuple[Fleet, Request]
) -> None:
    fleet, request = situation
    candidates = fleet.candidates()
    mask = make_plugin(kind, fleet, **NEEDED.get(kind.type, {})).keep(request, candidates)

    assert np.asarray(mask).dtype == np.bool_
    assert set(candidates.keep(mask).rows) <= set(candidates.rows)


@pytest.mark.parametrize("kind", PICKERS, ids=lambda p: p.type)
@given(situation=situations(), asked=st.integers(-1, 12), data=st.data())
@settings(max_examples=40)
def test_pickers_give_different_positions_that_exist(
    kind: type[Picker], situation: tuple[Fleet, Request], asked: int, data: st.DataObject
) -> None:
    fleet, request = situation
    count = len(fleet)
    scores = np.array(data.draw(st.lists(st.floats(-10, 1e6), min_size=count, max_size=count)))
    positions = list(make_plugin(kind, fleet, maxNumOfEndpoints=asked).pick(request, fleet.candidates(), scores))

    assert len(set(positions)) == len(positions) == min(max(asked, 1), count)
    assert all(0 <= p < count for p in positions)


@pytest.mark.parametrize("kind", DETECTORS, ids=lambda p: p.type)
@given(data=st.data())
@settings(max_examples=40)
def test_saturation_is_a_number_from_zero_up(kind: type[SaturationDetector], data: st.DataObject) -> None:
    # What the picker counts itself is never negative, infinite or missing.
    counted = issubclass(kind, ConcurrencyDetector)
    fleet, _ = data.draw(situations(st.integers(0, 10**9).map(float) if counted else values))

    assert 0.0 <= make_plugin(kind, fleet).saturation(fleet.candidates()) < inf


class Accounting(RuleBasedStateMachine):
    """Requests start, stream and end in any order while endpoints come and go; the columns always equal a plain sum."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = make_fleet(3)
        self.producer = make_plugin(
            InflightLoadProducer,
            self.fleet,
            addEstimatedOutputTokens=True,
            outputRatio=0.7,
            maxEstimatedOutputTokens=50,
        )
        self.added = 0
        # What each open request has on which endpoint: (endpoint, requests, tokens).
        self.open: list[tuple[Request, list[tuple[Endpoint, int, int]], int]] = []

    @precondition(lambda self: len(self.fleet))
    @rule(data=st.data(), size=st.integers(0, 2000), blocks=st.integers(0, 12))
    def start(self, data: st.DataObject, size: int, blocks: int) -> None:
        endpoint = st.sampled_from(self.fleet.candidates().endpoints)
        target, prefiller = data.draw(endpoint), data.draw(st.none() | endpoint)
        request = make_request(b"x" * size)
        request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.full(self.fleet.capacity, float(blocks)), blocks, 16)
        self.producer.produce(request, self.fleet.candidates())
        row = None if prefiller is None else prefiller.row
        self.producer.pre_request(request, picked(self.fleet, target.row, prefill=row))
        prompt = (size + 3) // 4
        uncached, output = max(prompt - 16 * blocks, 0), min(int(prompt * 0.7), 50)
        charges = [(target, 1, uncached + output)] + ([(prefiller, 1, uncached)] if prefiller else [])
        self.open.append((request, charges, output))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def chunk(self, data: st.DataObject) -> None:
        i = data.draw(st.integers(0, len(self.open) - 1))
        request, charges, output = self.open[i]
        self.producer.response_chunk(request, ended(), b"x")
        self.open[i] = (request, [(charges[0][0], 1, output)], output)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), termination=st.sampled_from(Termination), twice=st.booleans())
    def end(self, data: st.DataObject, termination: Termination, twice: bool) -> None:
        request, _, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        for _ in range(1 + twice):
            self.producer.response_complete(request, ended(0, termination))

    @precondition(lambda self: len(self.fleet))
    @rule(data=st.data())
    def endpoint_leaves(self, data: st.DataObject) -> None:
        self.fleet.remove(data.draw(st.sampled_from(self.fleet.candidates().endpoints)))

    @precondition(lambda self: len(self.fleet) < 5)
    @rule()
    def endpoint_comes(self) -> None:
        self.added += 1
        self.fleet.add(Endpoint(f"new{self.added}", "10.9.0.1", 8000))

    @invariant()
    def columns_equal_the_sum_of_what_is_open(self) -> None:
        for endpoint in self.fleet.candidates():
            charges = [c for _, of_one, _ in self.open for c in of_one if c[0] is endpoint]
            assert self.fleet.columns[IN_FLIGHT_REQUESTS][endpoint.row] == sum(c[1] for c in charges)
            assert self.fleet.columns[IN_FLIGHT_TOKENS][endpoint.row] == sum(c[2] for c in charges)

    def teardown(self) -> None:
        for request, _, _ in self.open:
            self.producer.response_complete(request, ended())
        for name in (IN_FLIGHT_REQUESTS, IN_FLIGHT_TOKENS):
            assert not self.fleet.candidates().column(name).any()


class TestAccounting(Accounting.TestCase):
    settings = settings(max_examples=40, stateful_step_count=25)


# Few letters, so that beginnings are often shared; one letter a block, where blocks grow after two of them.
prompts = st.text("ab", max_size=12).map(lambda text: Chain(text.encode(), block_bytes=1, seed=0))
rows = st.integers(0, 11)


class Index(RuleBasedStateMachine):
    """The prefix index against one plain list of (block, used again) per row, in the order of dropping."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(prefix_chain, "_SMALLEST_FIRST", 2)
        self.index = PrefixIndex()
        self.model: dict[int, list[tuple[int, bool]]] = {}
        self.open: list[tuple[int, list[int]]] = []
        self.brought: Counter[tuple[int, int]] = Counter()

    @rule(row=rows, prompt=prompts, capacity=st.integers(1, 12))
    def insert(self, row: int, prompt: Chain, capacity: int) -> None:
        chain = beginning(prompt.blocks, capacity)
        before = self.held(row)
        unsettled = self.index.insert(row, prompt.blocks, capacity=capacity)

        new = [block for block in reversed(chain) if block not in before]
        expected = Counter(new) + Counter(b for b in chain if b in before and self.brought[row, b])
        assert Counter(unsettled) == expected
        ring = [(block, used or block in chain) for block, used in self.model.get(row, [])]
        self.brought.update((row, block) for block in unsettled)
        self.drop(row, ring, capacity - sum(map(size_of, new)))
        self.model[row] = [*ring, *((block, False) for block in new)]
        self.open.append((row, unsettled))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), served=st.booleans())
    def finish(self, data: st.DataObject, served: bool) -> None:
        row, unsettled = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        (self.index.settle if served else self.index.undo)(row, unsettled)
        for block in unsettled:
            if not self.brought[row, block]:
                continue
            self.brought[row, block] = 0 if served else self.brought[row, block] - 1
            if not served and not self.brought[row, block]:
                self.model[row] = [entry for entry in self.model[row] if entry[0] != block]

    @rule(row=rows)
    def remove(self, row: int) -> None:
        self.index.remove(row)
        self.model.pop(row, None)
        # Whoever owns the index does not end requests of a row that is gone.
        self.open = [entry for entry in self.open if entry[0] != row]
        self.brought = Counter({key: count for key, count in self.brought.items() if key[0] != row})

    @rule(row=rows, capacity=st.integers(0, 12))
    def shrink(self, row: int, capacity: int) -> None:
        dropped = self.index.shrink(row, capacity)
        ring = self.model.get(row, [])
        before = size(ring)
        self.drop(row, ring, capacity)
        assert dropped == before - size(ring)

    @rule(row=rows, to=rows)
    def save_and_restore(self, row: int, to: int) -> None:
        blocks = self.index.blocks_of(row).tolist()
        assert blocks == [block for block, _ in self.model.get(row, []) if not self.brought[row, block]]
        self.remove(to)
        self.index.restore(to, array("Q", blocks), capacity=4)
        self.model[to] = [(block, False) for block in beginning(blocks[::-1], 4)[::-1]]

    @rule(chain=prompts)
    def look_up(self, chain: Chain) -> None:
        matched = np.zeros(12)
        self.index.count_matches(chain, matched)
        assert matched.tolist() == [beginning_held(chain, self.held(row)) for row in range(12)]

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.index) == sum(map(size, self.model.values()))
        assert all(self.index.held_by(row) == size(self.model.get(row, [])) for row in range(12))

    def drop(self, row: int, ring: list[tuple[int, bool]], capacity: int) -> None:
        while size(ring) > capacity:
            block, used = ring.pop(0)
            if used:
                ring.append((block, False))
            else:
                self.brought[row, block] = 0

    def held(self, row: int) -> set[int]:
        return {block for block, _ in self.model.get(row, [])}

    def teardown(self) -> None:
        for row in range(12):
            self.index.remove(row)
        assert len(self.index) == 0
        self.patch.undo()


def size(ring: list[tuple[int, bool]]) -> int:
    return sum(size_of(block) for block, _ in ring)


def beginning_held(chain: Chain, held: set[int]) -> int:
    """What is held of a chain without a gap: whole blocks, and what smaller ones cover of the first that is not."""
    depth, after = 0, chain.before(0)
    for block in chain.blocks:
        if block not in held:
            for level in reversed(range(size_of(block).bit_length() - 1)):
                part = chain.part(depth, level, after=after)
                if part in held:
                    depth, after = depth + size_of(part), part
            break
        depth, after = depth + size_of(block), block
    return depth


class TestIndex(Index.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30)


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=30), capacity=st.integers(1, 10))
@settings(max_examples=30)
def test_the_prefix_producer_never_keeps_more_than_its_capacity(sizes: list[int], capacity: int) -> None:
    fleet = make_fleet(2)
    producer = make_plugin(
        ApproxPrefixCacheProducer, fleet, autoTune=False, blockSizeTokens=1, lruCapacityPerServer=capacity
    )
    for i, size in enumerate(sizes):
        request = make_request(bytes([i]) * size)
        producer.produce(request, fleet.candidates())
        producer.pre_request(request, picked(fleet, 0))
    request = make_request(bytes([len(sizes) - 1]) * sizes[-1])
    producer.produce(request, fleet.candidates())

    matched: PrefixMatch = request.data[data_key(PREFIX_MATCH)]
    assert matched.matched_blocks[0] == min(sizes[-1] // 4, capacity)
