"""How soon the rates at which servers read are known, from servers that read first come, first served, on a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_plugins.prefill_lines import PrefillLines, Prompt

GUESS = 8000.0


class Readers:
    """Servers that read `rates` tokens a second, and what a picker that sends them prompts in turn believes of them."""

    def __init__(self, rates: Sequence[float], *, seed: int, load: float = 0.7) -> None:
        self.lines = PrefillLines(len(rates), initial_rate=GUESS)
        self.rates = list(rates)
        self.chance = random.Random(seed)
        self.load = load
        self.now_s = 0.0
        self.first_tokens = 0
        self._free_s = [0.0] * len(rates)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def until(self, first_tokens: int, *, reads: Callable[[int, float], float] = lambda row, tokens: tokens) -> None:
        """Go on until so many first tokens were seen. `reads`: how many tokens a server has to read of a prompt in fact."""
        if not self._events:
            for row in range(len(self.rates)):
                self._at(self.chance.random(), lambda row=row: self._send(row, reads))  # type: ignore[misc]
        while self.first_tokens < first_tokens:
            self.now_s, _, event = heapq.heappop(self._events)
            event()

    def _at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._number), event))

    def _send(self, row: int, reads: Callable[[int, float], float]) -> None:
        tokens = float(self.chance.randint(1000, 8000))
        self.lines.drain(self.now_s)
        prompt = self.lines.add(row, tokens, self.now_s, watched=True)
        begins_s = max(self.now_s, self._free_s[row])
        self._free_s[row] = begins_s + reads(row, tokens) / self.rates[row]
        self._at(self._free_s[row] + 0.01, lambda: self._first_token(prompt))
        pause_s = self.chance.expovariate(self.load / (4500 / self.rates[row]))
        self._at(self.now_s + pause_s, lambda: self._send(row, reads))

    def _first_token(self, prompt: Prompt) -> None:
        self.first_tokens += 1
        self.lines.read(prompt, self.now_s, learns=True)
        self.lines.end(prompt, self.now_s, served=True)

    @property
    def believed(self) -> list[float]:
        return [self.lines.line(row).rate for row in range(len(self.rates))]


@given(seed=st.integers(0, 10_000), off=st.floats(-3.4, 3.4), servers=st.integers(1, 16))
@settings(max_examples=150)
def test_a_few_first_tokens_anywhere_tell_the_rate_of_all(seed: int, off: float, servers: int) -> None:
    """Up to thirty times slower or quicker than guessed."""
    rate = GUESS * 2.718**off
    readers = Readers([rate] * servers, seed=seed)
    readers.until(3)

    assert readers.believed == pytest.approx([rate] * servers, rel=0.5)
    readers.until(10)
    assert readers.believed == pytest.approx([rate] * servers, rel=0.25)


@given(seed=st.integers(0, 10_000), slower=st.floats(1.5, 4.0))
@settings(max_examples=100)
def test_one_slower_server_is_told_apart_by_ten_first_tokens_of_its_own(seed: int, slower: float) -> None:
    rates = [400.0 / slower] + [400.0] * 7
    readers = Readers(rates, seed=seed)
    while readers.lines.line(0).samples < 10:
        readers.until(readers.first_tokens + 1)

    assert readers.believed == pytest.approx(rates, rel=0.3)


@given(seed=st.integers(0, 10_000), warm_up=st.floats(1.0, 20.0), servers=st.integers(2, 8))
@settings(max_examples=100)
def test_servers_that_compile_at_their_first_prompt_are_not_taken_for_slow(
    seed: int, warm_up: float, servers: int
) -> None:
    met: set[int] = set()

    def reads(row: int, tokens: float) -> float:
        is_first = row not in met
        met.add(row)
        return tokens * (warm_up if is_first else 1.0)

    readers = Readers([400.0] * servers, seed=seed)
    readers.until(20 * servers, reads=reads)

    assert readers.believed == pytest.approx([400.0] * servers, rel=0.5)


@given(seed=st.integers(0, 10_000), servers=st.integers(1, 8))
@settings(max_examples=100)
def test_prompts_that_are_cached_unknown_to_us_do_not_make_servers_quick(seed: int, servers: int) -> None:
    """One prompt in eight of each server, whichever it is."""
    chance = random.Random(seed)
    cached: list[list[bool]] = [[] for _ in range(servers)]

    def reads(row: int, tokens: float) -> float:
        if not cached[row]:
            cached[row] = chance.sample([True] + [False] * 7, 8)
        return tokens * (0.02 if cached[row].pop() else 1.0)

    readers = Readers([400.0] * servers, seed=seed)
    readers.until(15 * servers, reads=reads)

    assert max(readers.believed) < 400.0 * 2.0


def test_servers_that_are_alike_are_believed_to_be_whatever_chance_shows() -> None:
    """What they read in a second varies up to four times. The luckiest would get more work than its cache can hold."""
    apart = []
    for seed in range(40):
        chance = random.Random(seed)
        readers = Readers([1500.0] * 8, seed=seed)
        readers.until(40 * 8, reads=lambda _, tokens, chance=chance: tokens * 2 ** chance.uniform(-1, 1))  # type: ignore[misc]
        apart.append(max(readers.believed) / min(readers.believed))

    assert median(apart) < 1.2
    assert max(apart) < 1.6
