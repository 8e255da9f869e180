"""lora-affinity-scorer: prefer endpoints that have the adapter loaded, then those with room for it."""

from __future__ import annotations

import msgspec

from epp.api import LORA_CAPACITY, Candidates, Request, Scorer


class LoraAffinityScorer(Scorer):
    """1 where the adapter is active; 0.8 where another adapter fits; 0.6 where it waits to be loaded; else 0.

    The adapter is the request's model name as sent on. Reads `lora_active`, `lora_waiting` and lora_capacity (adapters).
    Same table and order as the Go EPP's lora-affinity-scorer, unless parameters say otherwise. By that order an endpoint that
    is loading the adapter is no better than any other with room, so that several load it at once; with `preferLoading` it
    scores 0.9, room or not. And a base model scores like an adapter that nobody has; all endpoints are equal, with 1, to the
    models of `baseModels`.
    """

    type = "lora-affinity-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        prefer_loading: bool = False
        base_models: frozenset[str] = frozenset()

    def score(self, request: Request, candidates: Candidates) -> list[float]:
        adapter = request.model
        if adapter in self.params.base_models:
            return [1.0] * len(candidates)
        loading = 0.9 if self.params.prefer_loading else 0.0
        capacities = candidates.column(LORA_CAPACITY).tolist()
        scores = []
        for endpoint, capacity in zip(candidates, capacities, strict=True):
            if adapter in endpoint.lora_active:
                scores.append(1.0)
            elif loading and adapter in endpoint.lora_waiting:
                scores.append(loading)
            elif len(endpoint.lora_active) + len(endpoint.lora_waiting) < capacity:
                scores.append(0.8)
            elif adapter in endpoint.lora_waiting:
                scores.append(0.6)
            else:
                scores.append(0.0)
        return scores
