"""weighted-random-picker: a candidate's chance is its share of the totals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np

from epp.api import Candidates, Floats, Handle, Picker, Request

_LEAST: Final = 2.3e-308


class WeightedRandomPicker(Picker):
    """`maxNumOfEndpoints` different candidates; the first is candidate i with probability total_i / sum of totals.

    Weighted sampling without replacement by random keys (A-Res, Efraimidis and Spirakis 2006), as in the Go EPP: the largest
    U^(1/total) win. Compared as -log(U) / total, which is exponential and does not underflow for small totals. Candidates
    without a positive total come last, in random order.

    Totals are sums of weights and often lie close together, so that chances are nearly equal. With `power` totals count raised
    to it: the higher, the more often the best is chosen; 0: all that have a total alike.
    """

    type = "weighted-random-picker"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        max_num_of_endpoints: int = 1  # 0 and less mean 1
        power: Annotated[float, msgspec.Meta(ge=0)] = 1.0

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._count = max(params.max_num_of_endpoints, 1)
        self._draws = np.random.Generator(np.random.PCG64(handle.random.getrandbits(64)))

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        draws = self._draws.standard_exponential(len(scores))
        shares = np.maximum(scores, 0.0)
        best = shares.max()
        if best > 0.0:
            shares /= best  # the largest is 1, so that its key is finite however small the totals are
        weighted = shares > 0.0
        if self.params.power != 1.0:
            # Of the smallest normal number at least: a high power must not turn a chance into none.
            shares = np.where(weighted, np.maximum(shares**self.params.power, _LEAST), 0.0)
        keys = np.full(len(scores), np.inf)
        with np.errstate(over="ignore"):
            np.divide(draws, shares, out=keys, where=weighted)
        if self._count == 1 and weighted.any():
            return (int(keys.argmin()),)
        order: list[int] = np.lexsort((draws, ~weighted, keys)).tolist()
        return order[: self._count]
