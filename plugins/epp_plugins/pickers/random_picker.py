"""random-picker: any candidate, whatever its total."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from epp.api import Candidates, Floats, Handle, Picker, Request


class RandomPicker(Picker):
    """`maxNumOfEndpoints` different candidates, all equally likely. Same rule as the Go EPP's random-picker."""

    type = "random-picker"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        max_num_of_endpoints: int = 1  # 0 and less mean 1

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._count = max(params.max_num_of_endpoints, 1)

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        total = len(candidates)
        return self.handle.random.sample(range(total), min(self._count, total))
