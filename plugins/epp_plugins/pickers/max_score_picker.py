"""max-score-picker: the best total wins."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from epp.api import IN_FLIGHT_REQUESTS, Candidates, Floats, Handle, Picker, Request


class MaxScorePicker(Picker):
    """The `maxNumOfEndpoints` highest totals, best first. Equal totals: fewest requests in flight first, then at random.

    The Go EPP's max-score-picker orders equal totals at random only, so between two readings of the metrics it may send many
    requests to one of several equal endpoints. Reads in_flight_requests.
    """

    type = "max-score-picker"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        max_num_of_endpoints: int = 1  # 0 and less mean 1

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._count = max(params.max_num_of_endpoints, 1)

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        if self._count > 1:
            return self._several(candidates, scores)
        first = int(scores.argmax())
        ties = (scores == scores.item(first)).nonzero()[0]
        if len(ties) < 2:
            return (first,)
        in_flight = candidates.fleet.columns[IN_FLIGHT_REQUESTS][candidates.rows[ties]]
        least = int(in_flight.argmin())
        still = (in_flight == in_flight.item(least)).nonzero()[0]
        chosen = least if len(still) < 2 else still.item(int(self.handle.random.random() * len(still)))
        return (ties.item(chosen),)

    def _several(self, candidates: Candidates, scores: Floats) -> list[int]:
        chance = np.array([self.handle.random.random() for _ in range(len(scores))])
        order: list[int] = np.lexsort((chance, candidates.column(IN_FLIGHT_REQUESTS), -scores)).tolist()
        return order[: self._count]
