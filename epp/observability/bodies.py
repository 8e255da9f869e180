"""Which bodies a configuration reads, and whether the proxy sends response bodies for nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from epp.api import Parser
from epp.config import Pipeline, body_needs, resolved_of
from epp.config.resolved import Resolved
from epp.observability.logs import INFO, log_event

# Uses only the moment of a response's first piece, to forget a prompt that a parser has measured; it does without, and
# without a measured prompt there is nothing to forget.
_CONTENT_WITHOUT: Final = frozenset({"inflight-load-producer"})
_FIX: Final = "epp envoy-config --response-bodies none"


def parsers_of_responses(of: Pipeline | Resolved) -> tuple[str, ...]:
    """Names of the parsers that find token counts or model names in response bodies."""
    resolved = resolved_of(of) if isinstance(of, Pipeline) else of
    parsers = [resolved.plugins[name] for name in resolved.parsers]
    usage = body_needs(resolved).usage
    return tuple(
        s.name
        for s in parsers
        if s.name in usage or getattr(s.cls, "restore_model", Parser.restore_model) is not Parser.restore_model
    )


def readers_of_pieces(of: Pipeline | Resolved) -> tuple[str, ...]:
    """Names of other plugins for whose sake response bodies should be sent."""
    resolved = resolved_of(of) if isinstance(of, Pipeline) else of
    return tuple(n for n in body_needs(resolved).response if resolved.plugins[n].type not in _CONTENT_WITHOUT)


def log_needs(log: logging.Logger, pipeline: Pipeline) -> None:
    """One line at the start: which bodies the configuration reads, and which modes the proxy therefore needs."""
    request = body_needs(pipeline).request
    response = (*parsers_of_responses(pipeline), *readers_of_pieces(pipeline))
    log_event(
        log,
        INFO,
        "bodies",
        request_body_mode="FULL_DUPLEX_STREAMED" if request else "NONE",
        response_body_mode="FULL_DUPLEX_STREAMED" if response else "NONE",
        request_readers=list(request),
        response_readers=list(response),
    )


class BodyWatch:
    """Told of every response body that the proxy sends: counts it, and warns once when nothing reads it.

    `count` takes whether something does. Parsers of the configuration count as readers, also of a response to a request that
    they did not parse: the proxy cannot be configured request by request.
    """

    def __init__(self, count: Callable[[bool], None], log: logging.Logger) -> None:
        self._count = count
        self._log = log
        self._hash: str | None = None  # not the pipeline itself: it has to go when its last request has ended
        self._read = False
        self._warned = False

    def sent(self, pipeline: Pipeline) -> None:
        """The proxy is about to send the body of a response to a request that `pipeline` decided."""
        if pipeline.config_hash != self._hash:
            self._hash = pipeline.config_hash
            self._read = bool(parsers_of_responses(pipeline) or readers_of_pieces(pipeline))
        self._count(self._read)
        if not self._read and not self._warned:
            self._warned = True
            self._log.warning("the proxy sends response bodies that nothing reads; `%s` writes a cheaper one", _FIX)
