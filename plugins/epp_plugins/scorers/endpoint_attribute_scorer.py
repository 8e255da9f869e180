"""endpoint-attribute-scorer: the lowest, or the highest, value of a number is best."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from epp.api import Candidates, ConfigError, Floats, Handle, Request, Scorer
from epp_plugins.attributes import attribute_key, attribute_values


class FixedRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    min: float
    max: float


class Normalization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """At most one of both; none: the range of the candidates."""

    fixed_range: FixedRange | None = None
    adaptive_range: dict[str, Any] | None = None


class Algorithm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["linear_lower_is_better", "linear_higher_is_better"]
    normalization: Normalization = Normalization()


class EndpointAttributeScorer(Scorer):
    """(v - min) / (max - min) clipped to [0, 1], or one minus that where the lowest is best; without the attribute 0.

    `min` and `max` are those of `fixedRange`, else those among the candidates that have the attribute; when these are all
    equal they score 1. Same rule as the Go EPP's endpoint-attribute-scorer.
    """

    type = "endpoint-attribute-scorer"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        attribute_key: str
        algorithm: Algorithm
        producer: str | None = None

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = attribute_key(params.attribute_key, params.producer, parameter="attributeKey")
        self._lowest = params.algorithm.type == "linear_lower_is_better"
        normalization = params.algorithm.normalization
        self._range = normalization.fixed_range
        if self._range is not None:
            if normalization.adaptive_range is not None:
                raise ConfigError("algorithm.normalization: choose either fixedRange or adaptiveRange")
            if not self._range.min < self._range.max:
                raise ConfigError("algorithm.normalization.fixedRange.max: must be more than min")

    def score(self, request: Request, candidates: Candidates) -> Floats:
        values = attribute_values(candidates, self._key)
        known = np.isfinite(values)
        scores: Floats = np.zeros(len(candidates))
        if not known.any():
            return scores
        found = values[known]
        low = self._range.min if self._range is not None else found.min().item()
        high = self._range.max if self._range is not None else found.max().item()
        if low == high:
            scores[known] = 1.0
            return scores
        # Each term on its own: the difference of two large numbers may be more than a float holds.
        share = ((found / 2 - low / 2) / (high / 2 - low / 2)).clip(0.0, 1.0)
        scores[known] = 1.0 - share if self._lowest else share
        return scores
