"""One record per request, made of its decision: a log line at verbosity 3, and `/debug/requests`. Never the prompt."""

from __future__ import annotations

import logging
import math
from typing import Any, Final

from epp.api import PrefixMatch, Request, Response
from epp.observability.explain import Decision, Decisions, Detail
from epp.observability.explanation import measured
from epp.observability.logs import VERBOSE

_SHOWN: Final = 100


class RequestLog:
    """Below verbosity 3 a request costs one comparison. Where decisions are not kept, a line says less of the pick."""

    def __init__(self, decisions: Decisions, logger: logging.Logger | None = None) -> None:
        self._decisions = decisions
        self._log = logger if logger is not None else logging.getLogger("epp.request")

    def request_line(self, request: Request, response: Response, config_hash: str) -> None:
        """`request` is over, and its decision knows it. `config_hash`: of the configuration that decided about it."""
        if not self._log.isEnabledFor(VERBOSE):
            return
        decision = self._decisions.of(request, response, config_hash)
        facts = _facts(decision)
        del facts["timestamp"]
        self._log.log(VERBOSE, "request", extra={"fields": facts})

    def recent(self) -> list[dict[str, Any]]:
        """The last requests that are over, the latest decision first; empty where decisions are not kept."""
        return [_facts(d) for d in reversed(self._decisions.last(_SHOWN)) if d.ended]


def _facts(decision: Decision) -> dict[str, Any]:
    """What is known; times in milliseconds, rounded to microseconds."""
    facts: dict[str, Any] = {
        "timestamp": round(decision.at_s, 3),
        "id": decision.id,
        "model": decision.model,
        "target_model": decision.target_model,
        "status": decision.status,
        "endpoint": decision.served or (decision.endpoints[0].host_port if decision.endpoints else ""),
        "priority": decision.priority,
        **measured(decision),
        "termination": None if decision.termination is None else decision.termination.value,
        "refusal": decision.refusal or None,
        "config": decision.config_hash or None,
    }
    if decision.detail is not None and decision.endpoints:
        facts.update(_pick(decision.detail, row=decision.endpoints[0].row))
    return {name: value for name, value in facts.items() if value is not None}


def _pick(detail: Detail, *, row: int) -> dict[str, int | None]:
    """What was known of the chosen endpoint when it was chosen; the request itself is counted in."""
    match = detail.prefixes[0][1] if detail.prefixes else None
    waiting = detail.reading.waiting.item(row)
    return {
        "candidates": len(detail.given),
        "queue": int(waiting) if math.isfinite(waiting) else None,
        "in_flight": int(detail.in_flight.item(row)) + 1,
        "prefix_blocks": None if match is None else _blocks(match, row),
        "prefix_total": None if match is None else match.total_blocks,
    }


def _blocks(match: PrefixMatch, row: int) -> int | None:
    """None where a plugin has published what cannot be read."""
    try:
        return int(match.matched_blocks.item(row))
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError):
        return None
