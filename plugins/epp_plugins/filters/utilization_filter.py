"""utilization-filter: endpoints under fixed limits of load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from epp.api import (
    IN_FLIGHT_LOAD,
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Candidates,
    Filter,
    Mask,
    Request,
    data_key,
)

_COLUMNS: Final = {
    "active-requests": IN_FLIGHT_REQUESTS,
    "running-requests": RUNNING_REQUESTS,
    "waiting-queue": WAITING_REQUESTS,
    "kv-cache-utilization": KV_CACHE_USAGE,
}


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The largest value of one metric with which an endpoint may stay: requests, or a fraction for the KV cache."""

    metric: Literal["active-requests", "running-requests", "waiting-queue", "kv-cache-utilization"]
    max_value: Annotated[float, msgspec.Meta(ge=0)]


class UtilizationFilter(Filter):
    """Keeps endpoints that meet every condition; a value that is missing counts as 0. With `fallbackOnEmpty` all, if none does.

    Same rule as the Go EPP's utilization-filter, which is experimental there too.
    """

    type = "utilization-filter"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        conditions: Annotated[tuple[Condition, ...], msgspec.Meta(min_length=1)]
        fallback_on_empty: bool = False

    def consumes(self) -> Sequence[str]:
        counts = any(condition.metric == "active-requests" for condition in self.params.conditions)
        return (data_key(IN_FLIGHT_LOAD),) if counts else ()

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        kept = np.ones(len(candidates), dtype=np.bool_)
        for condition in self.params.conditions:
            # Not `<=`: NaN, which is a missing value, must pass.
            kept &= ~(candidates.column(_COLUMNS[condition.metric]) > condition.max_value)
        if self.params.fallback_on_empty and not kept.any():
            kept[:] = True
        return kept
