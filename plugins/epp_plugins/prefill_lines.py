"""What is believed of the prompts that endpoints still have to read: a line of prompts for each, and how fast it moves.

A model server reads prompts first come, first served. So a first token says that its prompt and all before it are read, and
a prompt without one says that those behind it are not, but for what fits into the same step. Between these two bounds the
backlog drains as a fluid, at the rate that the endpoint's first tokens have shown, less what decoding takes of a step.
No I/O, no clock: times are seconds, given by the caller, and never go back.

Rates are medians, so that no first request that waited for a compiler decides one, and none that was cached unknown to us.
The first few first tokens, wherever they come from, tell of all endpoints. An endpoint has a rate of its own as far as it
differs from the pool's by more than chance: endpoints that are alike would else have more to do the luckier they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from math import ceil, exp, inf, isnan, log, nan, sqrt
from typing import Final

import numpy as np

from epp.api import Floats

# Share of a step that one decoding sequence takes from prefill.
_DECODING_SHARE: Final = 0.0015
# Time to a first token that no prompt is to blame for: the step in progress, the network.
_OVERHEAD_S: Final = 0.01
# Tokens of one engine step, which several prompts may share.
_STEP_TOKENS: Final = 2048.0
# With less work than this a first token says little about the rate: half as much as one with far more.
_TELLING_TOKENS: Final = 512.0
_USUAL_SHARE: Final = 0.05  # of one prompt in the average length
_POOLED: Final = 63  # newest samples that say what endpoints of this pool read
_OWN: Final = 31  # newest samples of one endpoint
_GUESS_WEIGHT: Final = 0.25  # of the initial rate among the pool's samples; theirs are under 1
# Samples of one endpoint differ by about half, until they have shown how much; that counts as so many samples.
_USUAL_SPREAD: Final = 0.5
_SPREAD_WEIGHT: Final = 2.0
_BY_CHANCE: Final = 2.0  # standard errors
_SAMPLES_A_MEDIAN: Final = 8  # once all endpoints have enough: sorting costs more than all else here
_OWN_ENOUGH: Final = 7  # samples after which an endpoint is looked at only when it shows another one
# Of a normal distribution: its deviation by the median distance from its middle, and how far medians are off, by deviations.
_SIGMA_OF_MEDIAN: Final = 1.4826
_ERROR_OF_MEDIAN: Final = 1.2533
# An endpoint that has shown nothing for so long forgets half: one that is wrongly taken for slow would show nothing for ever.
_FADES_AFTER_S: Final = 300.0


class Prompt:
    """A prompt on its way through the line of an endpoint."""

    __slots__ = ("added_s", "ends", "line", "seen_waiting", "tokens", "waits", "watched", "work")

    def __init__(self, line: Line, tokens: float, *, work: float, added_s: float) -> None:
        self.line = line
        self.tokens = tokens  # that are not cached; a whole number
        self.work = work  # tokens before its first output, its own included, as believed when it came
        self.added_s = added_s
        self.watched = False  # its first token will be seen
        self.waits = True  # its first token has not been seen, nor one of a later prompt
        self.seen_waiting = False
        self.ends = False


class Line:
    """The prompts of one endpoint that are not known to be read, oldest first. `row` is -1 once the endpoint has gone."""

    __slots__ = (
        "decoding",
        "pending",
        "prompts",
        "rate",
        "read_s",
        "read_tokens",
        "row",
        "samples",
        "seen_s",
        "shown",
        "shown_s",
    )

    def __init__(self, row: int, rate: float) -> None:
        self.row = row
        self.rate = rate  # tokens a second, beside no decoding sequence
        self.shown = _Rates(_OWN)
        self.shown_s = 0.0  # the newest of them
        self.samples = 0
        self.seen_s = -inf  # the newest first token; NaN if more was read since
        self.read_tokens = self.read_s = 0.0  # not yet enough for a sample
        self.prompts: deque[Prompt] = deque()
        self.pending = 0.0  # the sum of their tokens
        self.decoding = 0


class PrefillLines:
    """A line for each endpoint, and their numbers in vectors by fleet row.

    `tokens` is the believed backlog as of the last `drain`, `speed` the tokens a second at which it drains, `waiting` the
    number of prompts that are not known to be read. `usual_tokens`: what of a prompt is to be read, on average.
    """

    def __init__(self, capacity: int, *, initial_rate: float) -> None:
        self._pool = _Rates(_POOLED)
        self._guess = (initial_rate, _GUESS_WEIGHT)
        self._pool_rate = initial_rate
        self._learning: set[Line] = set()  # those whose rate still depends on the pool's
        self._drained_s = 0.0
        self._faded_s = 0.0
        self._added = 0
        self.usual_tokens = 0.0
        self._lines: dict[int, Line] = {}
        self.tokens: Floats = np.zeros(capacity)
        self.speed: Floats = np.full(capacity, initial_rate)
        self.waiting: Floats = np.zeros(capacity)
        self._floor: Floats = np.zeros(capacity)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def fit(self, capacity: int) -> None:
        """Make room for the rows of a fleet that has grown."""
        more = capacity - len(self.tokens)
        if more > 0:
            self.tokens = np.concatenate([self.tokens, np.zeros(more)])
            self.speed = np.concatenate([self.speed, np.full(more, self._pool_rate)])
            self.waiting = np.concatenate([self.waiting, np.zeros(more)])
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
            self._pool_rate = self._pool.median(*self._guess)
            line = self._lines[row] = Line(row, self._pool_rate)
            self._learning.add(line)
            self._moved(line)
        return line

    def remember(self, row: int, rate: float, samples: int) -> None:
        """The endpoint in `row` is known from before."""
        line = self.line(row)
        line.samples = samples
        for _ in range(min(samples, _OWN_ENOUGH)):
            line.shown.add(rate, 1.0)
        self._pool.add(rate, 1.0)
        self._pool_rate = self._pool.median(*self._guess)
        line.rate = rate
        self._moved(line)

    def forget(self, row: int) -> None:
        """The endpoint has gone, and all that it was given with it."""
        line = self._lines.pop(row, None)
        if line is not None:
            line.row = -1
        if row < len(self.tokens):
            self.tokens[row] = self._floor[row] = self.waiting[row] = 0.0
            self.speed[row] = self._pool_rate

    def add(self, row: int, tokens: float, now_s: float, *, watched: bool) -> Prompt:
        """A prompt with `tokens` that are not cached goes to the endpoint in `row`; whether its first token will be seen.

        Drains nothing: the decision for `row` has just done that.
        """
        line = self.line(row)
        work = self.tokens.item(row) + tokens
        prompt = Prompt(line, tokens, work=work, added_s=now_s)
        prompt.watched = watched
        line.prompts.append(prompt)
        line.pending += tokens
        self._added += 1
        self.usual_tokens += (tokens - self.usual_tokens) * max(_USUAL_SHARE, 1.0 / self._added)
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
            self._first_token(prompt, now_s)
        else:
            line.seen_s = nan
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
                self._believed(prompt, at_s)
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
        line, took_s = prompt.line, now_s - prompt.added_s
        if prompt.waits and _rate(line, prompt.work, took_s - _OVERHEAD_S) > line.rate:
            self._believed(prompt, now_s)

    def _first_token(self, prompt: Prompt, now_s: float) -> None:
        """What was read since the first token before, where nothing else is known to have been read and there was no pause."""
        line = prompt.line
        first, seen_s = line.prompts[0], line.seen_s
        line.seen_s = now_s
        if isnan(seen_s) or (prompt is not first and prompt.added_s > seen_s):
            self._believed(prompt, now_s)
            return
        tokens = 0.0
        for other in line.prompts:
            tokens += other.tokens
            if other is prompt:
                break
        took_s = now_s - seen_s if first.added_s <= seen_s else now_s - first.added_s - _OVERHEAD_S
        # Prompts that share a step have their first tokens at once: only their sum tells.
        weight = _telling(tokens)
        line.read_tokens += weight * tokens
        line.read_s += weight * max(took_s, 0.0)
        if line.read_tokens >= _TELLING_TOKENS:
            self._shows(line, _rate(line, line.read_tokens, line.read_s), 1.0)
            line.read_tokens = line.read_s = 0.0

    def _believed(self, prompt: Prompt, now_s: float) -> None:
        """By `now_s` all was read that was believed to be before the prompt when it came."""
        line = prompt.line
        rate = _rate(line, prompt.work, now_s - prompt.added_s - _OVERHEAD_S)
        if prompt.work:
            self._shows(line, rate, _telling(prompt.work))

    def _shows(self, line: Line, rate: float, weight: float) -> None:
        """An endpoint has shown this rate."""
        line.samples += 1
        line.shown_s = self._drained_s
        line.shown.add(rate, weight)
        self._pool.add(rate, weight)
        if self._drained_s - self._faded_s >= _FADES_AFTER_S:
            self._fade()
        if self._learning:
            self._pool_rate = self._pool.median(*self._guess)
        elif line.samples % _SAMPLES_A_MEDIAN:
            return
        self._learning = {other for other in self._learning if other.row >= 0}
        for other in {line} | self._learning:
            other.rate = other.shown.beside(self._pool_rate)
            self._moved(other)
            if len(other.shown) >= _OWN_ENOUGH:
                self._learning.discard(other)

    def _fade(self) -> None:
        self._faded_s = self._drained_s
        for line in self._lines.values():
            if self._drained_s - line.shown_s >= _FADES_AFTER_S:
                line.shown.halve()
                self._learning.add(line)

    def _moved(self, line: Line) -> None:
        """The line's prompts, decoding sequences or rate have changed: so have its bounds and its speed."""
        row, prompts = line.row, line.prompts
        pending = line.pending
        floor = 0.0
        if prompts and prompts[0].watched:
            floor = max(0.0, pending - ceil(prompts[0].tokens / _STEP_TOKENS) * _STEP_TOKENS)
        self._floor[row] = floor
        self.tokens[row] = min(max(self.tokens.item(row), floor), pending)
        self.waiting[row] = len(prompts)
        self.speed[row] = line.rate / (1.0 + _DECODING_SHARE * line.decoding)


class _Rates:
    """The newest samples of a rate, each with its weight."""

    def __init__(self, most: int) -> None:
        self._newest: deque[tuple[float, float]] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, rate: float, weight: float) -> None:
        self._newest.append((rate, weight))

    def halve(self) -> None:
        """Forget the older half."""
        for _ in range((len(self._newest) + 1) // 2):
            self._newest.popleft()

    def median(self, guess: float, weight: float) -> float:
        """Of the samples and a guess."""
        return _median((*self._newest, (guess, weight)))

    def beside(self, usual: float) -> float:
        """The median, drawn to the usual rate as far as chance may have parted them (positive-part James-Stein)."""
        weight = sum([of_one for _, of_one in self._newest])
        if not weight:
            return usual
        own = _median(self._newest)
        spread = _SIGMA_OF_MEDIAN * _median([(abs(log(rate / own)), of_one) for rate, of_one in self._newest])
        variance = weight * spread * spread + _SPREAD_WEIGHT * _USUAL_SPREAD * _USUAL_SPREAD
        error = _ERROR_OF_MEDIAN * sqrt(variance / (weight + _SPREAD_WEIGHT) / weight)
        apart = log(own / usual)
        chance = _BY_CHANCE * error
        return usual if abs(apart) <= chance else usual * exp(apart * (1.0 - (chance / apart) ** 2))


def _median(samples: Iterable[tuple[float, float]]) -> float:
    """Of values with weights, at least one."""
    ordered = sorted(samples)
    left = sum([weight for _, weight in ordered]) / 2.0
    for value, weight in ordered:
        left -= weight
        if left <= 0.0:
            return value
    return ordered[-1][0]


def _telling(tokens: float) -> float:
    """How much a sample of so many tokens says."""
    return tokens / (tokens + _TELLING_TOKENS)


def _rate(line: Line, tokens: float, took_s: float) -> float:
    """Tokens a second, beside no decoding sequence."""
    return max(tokens, 1.0) * (1.0 + _DECODING_SHARE * line.decoding) / max(took_s, 1e-3)
