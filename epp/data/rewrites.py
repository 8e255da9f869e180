"""Which model a request is sent on for (InferenceModelRewrite). Pure; fed by whoever knows the rules.

A rule for exactly the asked model beats a rule for every model. Among equals the older rewrite wins, then the earlier rule.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec


class RewriteTarget(msgspec.Struct, frozen=True):
    """A model to send on for, and its share. Without a weight it is chosen only where no target of the rule has one."""

    model: str
    weight: int | None = None


class RewriteRule(msgspec.Struct, frozen=True):
    """Targets for requests that ask for one of `models`; no models: for any request."""

    targets: tuple[RewriteTarget, ...]
    models: frozenset[str] = frozenset()


class ModelRewrite(msgspec.Struct, frozen=True):
    """One named set of rules. `created_s` is its age's start (seconds since the epoch); ties are broken by name."""

    name: str
    rules: tuple[RewriteRule, ...]
    created_s: float = 0.0
    namespace: str = ""


class Rewrites:
    """The pool's rewrites, ready to be asked. The answer costs one or two look-ups and, for weights, one random number."""

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng
        self._rewrites: dict[tuple[str, str], ModelRewrite] = {}
        self._exact: dict[str, tuple[str, tuple[RewriteTarget, ...]]] = {}
        self._generic: tuple[str, tuple[RewriteTarget, ...]] | None = None

    def __len__(self) -> int:
        return len(self._rewrites)

    def rewrite(self, model: str) -> tuple[str, str] | None:
        """Name of the rewrite and target model for a request that asks for `model` ("" when it names none)."""
        chosen = self._exact.get(model) or self._generic
        if chosen is None:
            return None
        name, targets = chosen
        return name, choose(targets, self._rng)

    def set(self, rewrite: ModelRewrite) -> None:
        """Add or change one."""
        self._rewrites[rewrite.namespace, rewrite.name] = rewrite
        self._index()

    def remove(self, name: str, *, namespace: str = "") -> None:
        if self._rewrites.pop((namespace, name), None) is not None:
            self._index()

    def replace_all(self, rewrites: Iterable[ModelRewrite]) -> None:
        self._rewrites = {(r.namespace, r.name): r for r in rewrites}
        self._index()

    def _index(self) -> None:
        self._exact, self._generic = {}, None
        for rewrite in sorted(self._rewrites.values(), key=lambda r: (r.created_s, r.namespace, r.name)):
            for rule in rewrite.rules:
                if not rule.targets:
                    continue
                found = (rewrite.name, rule.targets)
                if not rule.models and self._generic is None:
                    self._generic = found
                for model in rule.models:
                    self._exact.setdefault(model, found)


def choose(targets: tuple[RewriteTarget, ...], rng: random.Random) -> str:
    """A target's model, by weight; all the same chance where the weights add up to nothing. `targets` is not empty."""
    if len(targets) == 1:
        return targets[0].model
    total = sum(target.weight or 0 for target in targets)
    if total <= 0:
        return rng.choice(targets).model
    point = rng.randrange(total)
    for target in targets:
        point -= target.weight or 0
        if point < 0:
            return target.model
    raise AssertionError("weights add up to less than their sum")
