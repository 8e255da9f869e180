"""endpoint-attribute-filter: endpoints with a number on the right side of a threshold."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
import numpy as np

from epp.api import Candidates, Filter, Handle, Mask, Request
from epp_plugins.attributes import attribute_key, attribute_values

_COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "LessThan": operator.lt,
    "LessThanOrEqual": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqual": operator.ge,
    "Equal": operator.eq,
    "NotEqual": operator.ne,
}


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operator: Literal["LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "Equal", "NotEqual"]
    value: float


class Algorithm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["threshold"]
    threshold: Threshold


class EndpointAttributeFilter(Filter):
    """Keeps endpoints whose `attribute` compares with the threshold; those without it if `onMissing` is `Pass`.

    With `fallbackOnEmpty` all, if none would stay. Same rule as the Go EPP's endpoint-attribute-filter.
    """

    type = "endpoint-attribute-filter"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        attribute: str
        algorithm: Algorithm
        producer: str | None = None
        on_missing: Literal["Pass", "Fail"] = "Pass"
        fallback_on_empty: bool = False

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = attribute_key(params.attribute, params.producer, parameter="attribute")
        self._passes = _COMPARISONS[params.algorithm.threshold.operator]
        self._value = params.algorithm.threshold.value

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        values = attribute_values(candidates, self._key)
        missing = np.isnan(values)
        kept: Mask = np.asarray(self._passes(values, self._value), dtype=np.bool_)
        kept[missing] = self.params.on_missing == "Pass"
        if self.params.fallback_on_empty and not kept.any():
            kept[:] = True
        return kept
