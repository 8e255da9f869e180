"""What `/explain` shows: decisions of the ring as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from epp.observability.explain import Decisions
from epp.observability.explanation import explanation


class ExplainPage:
    """Reads the ring. A decision is worked out when the iterator comes to it: milliseconds each, where the fleet is large."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    def one(self, request_id: str) -> dict[str, Any] | None:
        """The latest decision about the request with this id."""
        found = self._decisions.find(request_id)
        return None if found is None else explanation(found)

    def last(self, count: int) -> Iterator[dict[str, Any]]:
        """The latest decisions, the earliest of them first."""
        return map(explanation, self._decisions.last(count))

    def after(self, number: int, count: int) -> Iterator[dict[str, Any]]:
        """The first decisions later than that number, the earliest first."""
        return map(explanation, self._decisions.after(number, count))
