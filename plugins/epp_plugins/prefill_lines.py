"""What is believed of the prompts that endpoints still have to read: a line of prompts for each, and how fast it moves.

A model server reads prompts first come, first served. So a first token says that its prompt and all before it are read, and
a prompt without one says that those behind it are not, but for what fits into the same step. Between these two bounds the
backlog drains as a fluid, at the rate that the endpoint's first tokens have shown, less what decoding takes of a step.
No I/O, no clock: times are seconds, given by the caller, and never go back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import ceil
from typing import Final

import numpy as np

from epp.api import Floats

# Share of a step that one decoding sequence takes from prefill.
_DECODING_SHARE: Final = 0.0015
# Time to a first token that no prompt is to blame for: the step in progress, the network.
_OVERHEAD_S: Final = 0.01
# Tokens of one engine step, which several prompts may share.
_STEP_TOKENS: Final = 2048.0
_LEARNING_SHARE: Final = 0.05  # of a sample, once there are enough of them
# With less work than this a first token says little about the rate.
_TELLING_TOKENS: Final = 1024.0
_MOST_OFF: Final = 4.0  # a single sample is not believed to be further off


class Prompt:
    """A prompt on its way through the line of an endpoint."""

    __slots__ = ("added_s", "ends", "expected_s", "line", "seen_waiting", "tokens", "waits", "watched", "work")

    def __init__(self, line: Line, tokens: float, *, work: float, expected_s: float, added_s: float) -> None:
        self.line = line
        self.tokens = tokens  # that are not cached; a whole number
        self.work = work  # tokens before its first output, its own included, as believed when it came
        self.expected_s = expected_s  # how long that takes
        self.added_s = added_s
        self.watched = False  # its first token will be seen
        self.waits = True  # its first token has not been seen, nor one of a later prompt
        self.seen_waiting = False
        self.ends = False


class Line:
    """The prompts of one endpoint that are not known to be read, oldest first. `row` is -1 once the endpoint has gone."""

    __slots__ = ("decoding", "pending", "prompts", "rate", "row", "samples")

    def __init__(self, row: int, rate: float) -> None:
        self.row = row
        self.rate = rate  # tokens a second, beside no decoding sequence
        self.samples = 0
        self.prompts: deque[Prompt] = deque()
        self.pending = 0.0  # the sum of their tokens
        self.decoding = 0


class PrefillLines:
    """A line for each endpoint, and their numbers in vectors by fleet row.

    `tokens` is the believed backlog as of the last `drain`, `speed` the tokens a second at which it drains.
    """

    def __init__(self, capacity: int, *, initial_rate: float) -> None:
        self._initial_rate = initial_rate
        self._drained_s = 0.0
        self._lines: dict[int, Line] = {}
        self.tokens: Floats = np.zeros(capacity)
        self.speed: Floats = np.full(capacity, initial_rate)
        self._floor: Floats = np.zeros(capacity)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def fit(self, capacity: int) -> None:
        """Make room for the rows of a fleet that has grown."""
        more = capacity - len(self.tokens)
        if more > 0:
            self.tokens = np.concatenate([self.tokens, np.zeros(more)])
            self.speed = np.concatenate([self.speed, np.full(more, self._initial_rate)])
            self._floor = np.concatenate([self._floor, np.zeros(more)])

    def drain(self, now_s: float) -> None:
        """Let the time until `now_s` pass."""
        elapsed_s = now_s - self._drained_s
        if elapsed_s > 0.0:
            self._drained_s = now_s
            np.maximum(self.tokens - self.speed * elapsed_s, self._floor, out=self.tokens)

    def line(self, row: int) -> Line:
        """That of the endpoint in `row`, made where there is none."""
        line = self._lines.get(row)
        if line is None:
            line = self._lines[row] = Line(row, self._likely_rate())
            self._moved(line)
        return line

    def remember(self, row: int, rate: float, samples: int) -> None:
        """The endpoint in `row` is known from before."""
        line = self.line(row)
        line.rate, line.samples = rate, samples
        self._moved(line)

    def forget(self, row: int) -> None:
        """The endpoint has gone, and all that it was given with it."""
        line = self._lines.pop(row, None)
        if line is not None:
            line.row = -1
        if row < len(self.tokens):
            self.tokens[row] = self._floor[row] = 0.0
            self.speed[row] = self._initial_rate

    def add(self, row: int, tokens: float, now_s: float, *, watched: bool) -> Prompt:
        """A prompt with `tokens` that are not cached goes to the endpoint in `row`; whether its first token will be seen.

        Drains nothing: the decision for `row` has just done that.
        """
        line = self.line(row)
        work = self.tokens.item(row) + tokens
        expected_s = _OVERHEAD_S + work / self.speed.item(row)
        prompt = Prompt(line, tokens, work=work, expected_s=expected_s, added_s=now_s)
        prompt.watched = watched
        line.prompts.append(prompt)
        line.pending += tokens
        self.tokens[row] = work
        self._moved(line)
        return prompt

    def watch(self, prompt: Prompt, *, watched: bool) -> None:
        """It is known whether its first token will be seen."""
        prompt.watched = watched
        if prompt.line.row >= 0:
            self._moved(prompt.line)

    def read(self, prompt: Prompt, now_s: float, *, learns: bool) -> None:
        """The prompt has been read, and with it all before it. `learns`: this is the time of its first token."""
        line = prompt.line
        if not prompt.waits or line.row < 0:
            return
        self.drain(now_s)
        if learns:
            self._learn(line, prompt.work, now_s - prompt.added_s, prompt.expected_s)
        while prompt.waits:
            first = line.prompts.popleft()
            first.waits = False
            line.pending -= first.tokens
            line.decoding += 1
        self._moved(line)

    def end(self, prompt: Prompt, now_s: float, *, served: bool) -> None:
        """The request is over. `served`: its prompt was read; otherwise what is left of it is taken back."""
        line = prompt.line
        if prompt.ends or line.row < 0:
            return
        prompt.ends = True
        if served:
            self._end_tells(prompt, now_s)
            self.read(prompt, now_s, learns=False)
        if prompt.waits:
            self._take_back(prompt, now_s)
        else:
            self.drain(now_s)
            line.decoding -= 1
        self._moved(line)

    def at_most_waiting(self, row: int, waiting: float, at_s: float) -> None:
        """The endpoint told at `at_s` how many requests wait there: of the prompts that came before, all but the last are read.

        One more may be in the middle of it. Requests of others that wait there, too, make this too cautious, never wrong.
        """
        line = self._lines.get(row)
        if line is None:
            return
        known = sum(1 for prompt in line.prompts if prompt.added_s < at_s)
        for prompt in list(line.prompts)[: max(0, known - int(min(waiting, known)) - 1)]:
            if prompt.seen_waiting:
                self._learn(line, prompt.work, at_s - prompt.added_s, prompt.expected_s)
            self.read(prompt, self._drained_s, learns=False)
        for prompt in line.prompts:
            prompt.seen_waiting = prompt.seen_waiting or prompt.added_s < at_s

    # --- inside ----------------------------------------------------------------------------------------------------------

    def _take_back(self, prompt: Prompt, now_s: float) -> None:
        """First come, first served: of a prompt is left what the prompts behind it do not account for."""
        self.drain(now_s)
        line = prompt.line
        behind = 0.0
        for other in reversed(line.prompts):
            if other is prompt:
                break
            behind += other.tokens
        line.prompts.remove(prompt)
        line.pending -= prompt.tokens
        prompt.waits = False
        left = min(max(self.tokens.item(line.row) - behind, 0.0), prompt.tokens)
        self.tokens[line.row] -= left

    def _end_tells(self, prompt: Prompt, now_s: float) -> None:
        """A response that is over before its first token was expected shows that the rate is higher."""
        took_s = now_s - prompt.added_s
        if prompt.waits and took_s < prompt.expected_s:
            self._learn(prompt.line, prompt.work, took_s, prompt.expected_s)

    def _learn(self, line: Line, work: float, took_s: float, expected_s: float) -> None:
        line.samples += 1
        share = max(_LEARNING_SHARE, 1.0 / (line.samples + 1.0)) * work / (work + _TELLING_TOKENS)
        ratio = max(took_s - _OVERHEAD_S, 1e-3) / max(expected_s - _OVERHEAD_S, 1e-3)
        ratio = min(max(ratio, 1.0 / _MOST_OFF), _MOST_OFF)
        line.rate /= 1.0 + share * (ratio - 1.0)

    def _moved(self, line: Line) -> None:
        """The line's prompts, decoding sequences or rate have changed: so have its bounds and its speed."""
        row, prompts = line.row, line.prompts
        pending = line.pending
        floor = 0.0
        if prompts and prompts[0].watched:
            floor = max(0.0, pending - ceil(prompts[0].tokens / _STEP_TOKENS) * _STEP_TOKENS)
        self._floor[row] = floor
        self.tokens[row] = min(max(self.tokens.item(row), floor), pending)
        self.speed[row] = line.rate / (1.0 + _DECODING_SHARE * line.decoding)

    def _likely_rate(self) -> float:
        """Of an endpoint that has not shown its own: low rather than high, which costs less where it is wrong."""
        rates = [line.rate for line in self._lines.values() if line.samples]
        return min(rates) if rates else self._initial_rate
