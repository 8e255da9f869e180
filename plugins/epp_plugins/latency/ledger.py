"""Requests and tokens on their way, endpoint by endpoint, told apart at their first token.

Counts are whole numbers, so that they return to exactly zero. What an endpoint that has left was charged goes with its row.
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np

from epp.api import Endpoint, Floats

# Rows of `Ledger.counts`, in the order in which their features stand in a matrix (`rows`).
RUNNING: Final = 0  # requests
PREFILL_TOKENS: Final = 1  # uncached tokens of their prompts
DECODE_TOKENS: Final = 2  # tokens that they are expected to generate
UNCACHED_TOKENS: Final = 3  # the first, of requests without their first token
PREFILL_REQUESTS: Final = 4  # requests without it
DECODE_REQUESTS: Final = 5  # requests with it
KINDS: Final = 6


class Charge:
    """What one request has added: to the endpoint that generates, and to another one that reads its prompt, if any."""

    __slots__ = ("decoder", "has_begun", "is_over", "output_tokens", "prefiller", "uncached_tokens")

    def __init__(self, decoder: Endpoint, prefiller: Endpoint, uncached_tokens: float, output_tokens: float) -> None:
        self.decoder = decoder
        self.prefiller = prefiller
        self.uncached_tokens = uncached_tokens
        self.output_tokens = output_tokens
        self.has_begun = False  # its first token has come
        self.is_over = False


class Ledger:
    """`counts`: a row for each of the constants above, a column for each row of the fleet."""

    def __init__(self) -> None:
        self.counts: Floats = np.zeros((KINDS, 16))
        self._expected: list[tuple[float, int, Charge]] = []
        self._number = 0  # orders what is expected at the same time

    def fit(self, capacity: int) -> None:
        """Have a column for each of the fleet's rows."""
        missing = capacity - self.counts.shape[1]
        if missing > 0:
            self.counts = np.hstack([self.counts, np.zeros((KINDS, missing))])

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint goes, and its row may be another's."""
        self.counts[:, endpoint.row] = 0.0

    def dispatched(self, charge: Charge) -> None:
        uncached, output = charge.uncached_tokens, charge.output_tokens
        if charge.prefiller is charge.decoder:
            self._add(charge.decoder, (1.0, uncached, output, uncached, 1.0, 0.0))
        else:
            self._add(charge.decoder, (1.0, 0.0, output, 0.0, 0.0, 0.0))
            self._add(charge.prefiller, (1.0, uncached, 0.0, uncached, 1.0, 0.0))

    def begins_at(self, charge: Charge, at_s: float, now_s: float) -> None:
        """Nobody will say when its first token comes: `catch_up` takes it to have come at `at_s`."""
        if at_s <= now_s:
            self.first_token(charge)
        else:
            self._number += 1
            heapq.heappush(self._expected, (at_s, self._number, charge))

    def catch_up(self, now_s: float) -> None:
        """Take as come what is expected to have come by now."""
        while self._expected and self._expected[0][0] <= now_s:
            self.first_token(heapq.heappop(self._expected)[2])

    def first_token(self, charge: Charge) -> None:
        """Its prompt has been read. Again, or after the end: nothing happens."""
        if charge.has_begun or charge.is_over:
            return
        charge.has_begun = True
        uncached = -charge.uncached_tokens
        if charge.prefiller is charge.decoder:
            self._add(charge.decoder, (0.0, 0.0, 0.0, uncached, -1.0, 1.0))
        else:
            self._add(charge.decoder, (0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
            self._add(charge.prefiller, (-1.0, uncached, 0.0, uncached, -1.0, 0.0))

    def ended(self, charge: Charge) -> None:
        """However. Again: nothing happens."""
        if charge.is_over:
            return
        self.first_token(charge)
        charge.is_over = True
        uncached = -charge.uncached_tokens if charge.prefiller is charge.decoder else 0.0
        self._add(charge.decoder, (-1.0, uncached, -charge.output_tokens, 0.0, 0.0, -1.0))

    def _add(self, endpoint: Endpoint, amounts: tuple[float, ...]) -> None:
        # The row of an endpoint that is gone may be another's by now.
        if endpoint.alive:
            self.counts[:, endpoint.row] += amounts
