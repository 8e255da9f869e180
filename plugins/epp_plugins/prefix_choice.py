"""Chooses, endpoint by endpoint, between what engines tell of their caches and what is guessed. No I/O.

Both are compared with the engines' answers (`epp_plugins.cache_check`). Where the guess has proved right clearly more often, as
when a tokenizer cuts prompts otherwise than the engine does, the guess counts, until what is told is right again.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from epp.api import Floats, PrefixMatch, Rows
from epp_plugins.cache_check import CacheCheck

_MARGIN: Final = 0.1  # of all recent answers
_ENOUGH: Final = 16  # answers
_ROUNDING: Final = 1e-9


class PrefixChoice:
    """For the producer whose answers `check` compares."""

    def __init__(self, check: CacheCheck) -> None:
        self._check = check
        self._ours: Floats | None = None
        self._theirs: Floats | None = None
        self._outdone: Rows = np.zeros(0, dtype=np.intp)

    def choose(self, told: PrefixMatch, guess: PrefixMatch | None) -> PrefixMatch:
        """`told`, with the guess in its place in rows where that is the better one; `told` itself where there are none."""
        if guess is None or guess.confidence is None or not guess.total_blocks:
            return told
        rows = self.outdone(guess.confidence)
        if not len(rows) or len(guess.matched_blocks) != len(told.matched_blocks):
            return told
        guessed = guessed_blocks(guess, told.total_blocks)
        matched, held, by_engine = told.matched_blocks.copy(), told.held_blocks.copy(), told.told
        matched[rows] = held[rows] = guessed[rows]
        if by_engine is not None:
            by_engine = by_engine.copy()
            by_engine[rows] = 0.0
        return msgspec.structs.replace(told, matched_blocks=matched, cached_blocks=held, told=by_engine)

    def outdone(self, theirs: Floats) -> Rows:
        """Rows where guesses of this confidence, by row, are right more often."""
        ours = self._check.confidence
        if ours is not self._ours or theirs is not self._theirs:
            self._ours, self._theirs = ours, theirs
            shared = min(len(ours), len(theirs))
            worse = np.flatnonzero(theirs[:shared] > ours[:shared] + _MARGIN)  # never true of NaN
            judged = [row for row in worse.tolist() if self._check.answers(row) >= _ENOUGH]
            self._outdone = np.array(judged, dtype=np.intp)
        return self._outdone


def guessed_blocks(guess: PrefixMatch, total_blocks: int) -> Floats:
    """What `guess`, which must have blocks, says by row, for a prompt of `total_blocks` blocks of another size."""
    blocks: Floats = np.floor(guess.matched_blocks * (total_blocks / guess.total_blocks) + _ROUNDING)
    return blocks
