"""Which model a request is sent on for (InferenceModelRewrite). Pure; fed by whoever knows the rules.

A rule for exactly the asked model beats a rule for every model. Among equals the rule that asks for more headers wins, then
the older rewrite, then the earlier rule.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec


class RewriteTarget(msgspec.Struct, frozen=True):
    """A model to send on for, and its share. Without a weight it is chosen only where no target of the rule has one."""

    model: str
    weight: int | None = None


class RewriteRule(msgspec.Struct, frozen=True):
    """Targets for requests that ask for one of `models` (none: for any model) and carry all of `headers`.

    A header is its name in lower case and the value that it has to have.
    """

    targets: tuple[RewriteTarget, ...]
    models: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()


class ModelRewrite(msgspec.Struct, frozen=True):
    """One named set of rules. `created_s` is its age's start (seconds since the epoch); ties are broken by name."""

    name: str
    rules: tuple[RewriteRule, ...]
    created_s: float = 0.0
    namespace: str = ""


_NO_HEADERS: Final[Mapping[str, str]] = {}


class _Choice(msgspec.Struct, frozen=True):
    """A rule as it is looked up: the name of its rewrite, what it asks of the headers, its targets."""

    name: str
    headers: tuple[tuple[str, str], ...]
    targets: tuple[RewriteTarget, ...]

    def fits(self, headers: Mapping[str, str]) -> bool:
        return all(headers.get(name) == value for name, value in self.headers)


class Rewrites:
    """The pool's rewrites, ready to be asked. The answer costs one or two look-ups, those of headers, and a random number."""

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng
        self._rewrites: dict[tuple[str, str], ModelRewrite] = {}
        self._exact: dict[str, list[_Choice]] = {}  # the first that fits is the one
        self._generic: list[_Choice] = []

    def __len__(self) -> int:
        return len(self._rewrites)

    def rewrite(self, model: str, headers: Mapping[str, str] | None = None) -> tuple[str, str] | None:
        """Name of the rewrite and target model for a request that asks for `model` ("" when it names none)."""
        for choices in (self._exact.get(model, ()), self._generic):
            for choice in choices:
                if not choice.headers or choice.fits(headers or _NO_HEADERS):
                    return choice.name, choose(choice.targets, self._rng)
        return None

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
        self._exact, self._generic = {}, []
        for rewrite in sorted(self._rewrites.values(), key=lambda r: (r.created_s, r.namespace, r.name)):
            for rule in rewrite.rules:
                if not rule.targets:
                    continue
                choice = _Choice(rewrite.name, rule.headers, rule.targets)
                if not rule.models:
                    self._generic.append(choice)
                for model in rule.models:
                    self._exact.setdefault(model, []).append(choice)
        for choices in (self._generic, *self._exact.values()):
            choices.sort(key=lambda choice: -len(choice.headers))  # stable: age and order still decide among equals


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
