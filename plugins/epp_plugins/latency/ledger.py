"""Requests and tokens on their way, endpoint by endpoint, told apart at their first token.

Counts are whole numbers, so that they return to exactly zero. What an endpoint that has left was charged goes with its row.
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np

from epp.api import Endpoint, Floats
from epp_predictor.features import COLUMN, COUNT

# Rows of `Ledger.by_feature`.
_RUNNING: Final = COLUMN["num_request_running"]
_PREFILL_TOKENS: Final = COLUMN["prefill_tokens_in_flight"]  # of the prompt, uncached
_DECODE_TOKENS: Final = COLUMN["decode_tokens_in_flight"]  # that are expected to be generated
_UNCACHED_TOKENS: Final = COLUMN["uncached_tokens_in_flight"]  # the first, of requests without their first token
_PREFILL_REQUESTS: Final = COLUMN["prefill_requests_in_flight"]  # without it
_DECODE_REQUESTS: Final = COLUMN["decode_requests_in_flight"]  # with it
_COUNTED: Final = np.array(
    (_RUNNING, _PREFILL_TOKENS, _DECODE_TOKENS, _UNCACHED_TOKENS, _PREFILL_REQUESTS, _DECODE_REQUESTS)
)


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
    """Keeps six rows of `by_feature`: a row for each feature, a column for each row of the fleet. The others are for whoever
    makes features (`rows`)."""

    def __init__(self) -> None:
        self._use(np.zeros((COUNT, 16)))
        self._expected: list[tuple[float, int, Charge]] = []
        self._number = 0  # orders what is expected at the same time

    def _use(self, by_feature: Floats) -> None:
        self.by_feature = by_feature
        # The same memory, by row of the fleet: a number of it is read and written in a tenth of the time.
        self._running, self._prefill_tokens, self._decode_tokens = (by_feature[n].data for n in _COUNTED[:3])
        self._uncached_tokens, self._prefill_requests, self._decode_requests = (
            by_feature[n].data for n in _COUNTED[3:]
        )

    @property
    def counts(self) -> Floats:
        """A copy of what is kept here: requests, uncached tokens, tokens to generate; uncached tokens and requests without a
        first token; requests with one."""
        counts: Floats = self.by_feature[_COUNTED]
        return counts

    def fit(self, capacity: int) -> None:
        """Have a column for each of the fleet's rows."""
        missing = capacity - self.by_feature.shape[1]
        if missing > 0:
            self._use(np.hstack([self.by_feature, np.zeros((COUNT, missing))]))

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint goes, and its row may be another's."""
        self.by_feature[_COUNTED, endpoint.row] = 0.0

    # The row of an endpoint that is gone may be another's by now: nothing is counted for it.

    def dispatched(self, charge: Charge) -> None:
        decoder, prefiller = charge.decoder, charge.prefiller
        if decoder.alive:
            self._running[decoder.row] += 1.0
            self._decode_tokens[decoder.row] += charge.output_tokens
        if prefiller.alive:
            row = prefiller.row
            if prefiller is not decoder:
                self._running[row] += 1.0
            self._prefill_tokens[row] += charge.uncached_tokens
            self._uncached_tokens[row] += charge.uncached_tokens
            self._prefill_requests[row] += 1.0

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
        decoder, prefiller = charge.decoder, charge.prefiller
        if decoder.alive:
            self._decode_requests[decoder.row] += 1.0
        if prefiller.alive:
            row = prefiller.row
            self._uncached_tokens[row] -= charge.uncached_tokens
            self._prefill_requests[row] -= 1.0
            if prefiller is not decoder:
                self._running[row] -= 1.0
                self._prefill_tokens[row] -= charge.uncached_tokens

    def ended(self, charge: Charge) -> None:
        """However. Again: nothing happens."""
        if charge.is_over:
            return
        self.first_token(charge)
        charge.is_over = True
        decoder = charge.decoder
        if decoder.alive:
            row = decoder.row
            self._running[row] -= 1.0
            self._decode_tokens[row] -= charge.output_tokens
            self._decode_requests[row] -= 1.0
            if charge.prefiller is decoder:
                self._prefill_tokens[row] -= charge.uncached_tokens
