"""context-length-aware: endpoints made for prompts of this length."""

from __future__ import annotations

import re
from typing import Final

import msgspec
import numpy as np

from epp.api import Candidates, ConfigError, Endpoint, Filter, Floats, Handle, Request, Scorer

_RANGE: Final = re.compile(r"\s*(\d{1,18})\s*-\s*(\d{1,18})\s*", re.ASCII)
_UNLABELLED: Final = 0.5

Range = tuple[int, int]  # the fewest and the most tokens


class ContextLengthAware(Filter, Scorer):
    """Scores how well the range in label `label` (`min-max`, tokens) fits the prompts; with `enableFiltering` keeps what fits.

    In its range 0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * (max - n) / width), 1 for a width of 0; outside
    0.3 / (1 + distance / 1000); without the label 0.5, and it stays; with one that is no range 0, and it goes. n is counted or
    estimated as `Payload.prompt_tokens` says. Same rule as the Go EPP's context-length-aware.
    """

    type = "context-length-aware"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        label: str = "llm-d.ai/context-length-range"
        enable_filtering: bool = False

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.label:
            raise ConfigError("label: must name a label")

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        if not self.params.enable_filtering:
            return [True] * len(candidates)
        tokens = request.payload.prompt_tokens
        return [self._fits(endpoint, tokens) for endpoint in candidates]

    def score(self, request: Request, candidates: Candidates) -> Floats:
        tokens = request.payload.prompt_tokens
        return np.array([self._score(endpoint, tokens) for endpoint in candidates], dtype=np.float64)

    def _fits(self, endpoint: Endpoint, tokens: int) -> bool:
        text = endpoint.labels.get(self.params.label)
        if text is None:
            return True
        found = _range(text)
        return found is not None and found[0] <= tokens <= found[1]

    def _score(self, endpoint: Endpoint, tokens: int) -> float:
        text = endpoint.labels.get(self.params.label)
        if text is None:
            return _UNLABELLED
        found = _range(text)
        if found is None:
            return 0.0
        low, high = found
        if not low <= tokens <= high:
            distance = low - tokens if tokens < low else tokens - high
            return 0.3 / (1 + distance / 1000)
        width = high - low
        if not width:
            return 1.0
        return 0.3 + 0.7 * (0.7 / (1 + width / 10_000) + 0.3 * (high - tokens) / width)


def _range(text: str) -> Range | None:
    """`min-max`; None for anything else, and where the minimum is the larger."""
    match = _RANGE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        return None
    return int(match[1]), int(match[2])
