"""Priorities by objective name (InferenceObjective). Pure; fed by whoever knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DEFAULT_PRIORITY: Final = 0


class Objectives:
    """The pool's objectives. A name that is not known, and the empty one, mean priority 0; below 0 is sheddable."""

    def __init__(self) -> None:
        self._priorities: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._priorities)

    def priority_of(self, name: str) -> int:
        return self._priorities.get(name, DEFAULT_PRIORITY)

    def set(self, name: str, priority: int | None = None) -> None:
        """Add or change one. No priority is the same as 0."""
        self._priorities[name] = DEFAULT_PRIORITY if priority is None else priority

    def remove(self, name: str) -> None:
        self._priorities.pop(name, None)

    def replace_all(self, priorities: Mapping[str, int | None]) -> None:
        self._priorities = {n: DEFAULT_PRIORITY if p is None else p for n, p in priorities.items()}
