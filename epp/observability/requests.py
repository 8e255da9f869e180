"""One record per request: a log line at verbosity 3, and the last few for `/debug/requests`. Never the prompt."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final, NamedTuple

from epp.api import Request, Response
from epp.observability.logs import VERBOSE

_COLUMNS: Final = (
    *("timestamp", "id", "model", "target_model", "status", "endpoint", "priority", "ttft_ms", "duration_ms"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "termination", "refusal", "config"),
)
_NO_TOKENS: Final = (None, None, None)


class PickFacts(NamedTuple):
    """What was known of the chosen endpoint when it was chosen. None: nothing is known of prefixes."""

    candidates: int
    queue: float  # requests, as its metrics said
    in_flight: float  # requests, this one included
    prefix_blocks: float | None = None  # blocks of the prompt that it was believed to hold
    prefix_total: int | None = None  # blocks of the prompt


class RequestLog:
    """`keep`: how many records to hold for the debug page; with 0, and below verbosity 3, a request costs one comparison."""

    def __init__(self, logger: logging.Logger | None = None, *, keep: int = 100) -> None:
        self._log = logger if logger is not None else logging.getLogger("epp.request")
        self._recent: deque[tuple[tuple[Any, ...], PickFacts | None]] = deque(maxlen=keep)
        self._keeps = keep > 0

    @property
    def wanted(self) -> bool:
        """Whether a record goes anywhere. Ask before working out fields that cost something."""
        return self._keeps or self._log.isEnabledFor(VERBOSE)

    def request_line(
        self, request: Request, response: Response, pick: PickFacts | None = None, *, config: str | None = None
    ) -> None:
        """`request` is over. `config`: the hash of the configuration that decided about it."""
        logged = self._log.isEnabledFor(VERBOSE)
        if not logged and not self._keeps:
            return
        row = _row(request, response, config)
        if self._keeps:
            self._recent.append((row, pick))
        if logged:
            facts = _facts(row, pick)
            del facts["timestamp"]
            self._log.log(VERBOSE, "request", extra={"fields": facts})

    def recent(self) -> list[dict[str, object]]:
        """The records held, the latest first."""
        return [_facts(row, pick) for row, pick in reversed(self._recent)]


def _row(request: Request, response: Response, config: str | None) -> tuple[Any, ...]:
    """Values in the order of _COLUMNS: a tuple, because most records are never looked at."""
    received_s = request.received_s
    result = request.result
    usage = response.usage
    tokens = _NO_TOKENS if usage is None else (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    return (
        time.time(),
        request.id,
        request.incoming_model,
        request.model,
        response.status,
        response.served_endpoint or (result.target.host_port if result is not None else ""),
        request.priority,
        None if response.first_chunk_s is None else (response.first_chunk_s - received_s) * 1e3,
        None if response.ended_s is None else (response.ended_s - received_s) * 1e3,
        *tokens,
        response.termination.value,
        response.refusal or None,
        config,
    )


def _facts(row: tuple[Any, ...], pick: PickFacts | None) -> dict[str, object]:
    """As a dictionary, without what is not known; times rounded to microseconds."""
    facts: dict[str, object] = {}
    for name, value in zip(_COLUMNS, row, strict=True):
        if value is not None:
            facts[name] = round(value, 3) if isinstance(value, float) else value
    if pick is not None:
        facts.update((name, int(value)) for name, value in pick._asdict().items() if value is not None)
    return facts
