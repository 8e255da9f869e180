"""Priorities and SLOs by objective name (InferenceObjective). Pure; fed by whoever knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from epp.api import NO_SLO, Slo

DEFAULT_PRIORITY: Final = 0


class Objectives:
    """The pool's objectives. A name that is not known, and the empty one, mean priority 0 and no SLO; below 0 is sheddable."""

    def __init__(self) -> None:
        self._priorities: dict[str, int] = {}
        self._slos: dict[str, Slo] = {}

    def __len__(self) -> int:
        return len(self._priorities)

    def priority_of(self, name: str) -> int:
        return self._priorities.get(name, DEFAULT_PRIORITY)

    def slo_of(self, name: str) -> Slo:
        return self._slos.get(name, NO_SLO)

    def set(self, name: str, priority: int | None = None, slo: Slo = NO_SLO) -> None:
        """Add or change one. No priority is the same as 0."""
        self._priorities[name] = DEFAULT_PRIORITY if priority is None else priority
        self._slos[name] = slo

    def remove(self, name: str) -> None:
        self._priorities.pop(name, None)
        self._slos.pop(name, None)

    def replace_all(self, priorities: Mapping[str, int | None], slos: Mapping[str, Slo] | None = None) -> None:
        self._slos = dict(slos or {})
        self._priorities = {n: DEFAULT_PRIORITY if p is None else p for n, p in priorities.items()}
