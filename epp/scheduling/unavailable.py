"""Refusals for want of an endpoint, and how they are told: as kube-scheduler tells why a pod fits no node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from epp.api import Code, RequestError

Removed: TypeAlias = tuple[tuple[str, int], ...]
"""Who removed how many endpoints, in order."""


def why_none(total: int, removed: Sequence[tuple[str, int]]) -> str:
    """`0/5 endpoints are available: 3 removed by decode-filter, 2 by utilization-filter`."""
    parts = [f"{count} {'' if position else 'removed '}by {name}" for position, (name, count) in enumerate(removed)]
    if not total:
        parts = ["the pool is empty"]
    return f"0/{total} endpoints are available" + (f": {', '.join(parts)}" if parts else "")


class Unavailable(RequestError):
    """None of `total` endpoints may serve the request; `removed` names who removed how many.

    The client is told the message only: names of plugins and sizes of pools are for the operator.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        total: int,
        removed: Sequence[tuple[str, int]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, message, headers=headers)
        self.total = total
        self.removed: Removed = tuple(removed)

    @property
    def why_not(self) -> str:
        return why_none(self.total, self.removed)
