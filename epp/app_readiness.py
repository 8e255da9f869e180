"""What keeps requests away though endpoints are known: a plugin that is not ready, a parser that the pool does not suit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from epp.config import Pipeline

_log: Final = logging.getLogger("epp.plugins")


def hindrances(pipeline: Pipeline, *, app_protocol: str) -> Iterator[str]:
    """One for each reason. `app_protocol`: what the pool says that its servers speak; empty where it says nothing."""
    for checker in pipeline.readiness_checkers:
        try:
            reason = checker.not_ready()
        except Exception:  # of a third party: it must not take the service down
            _log.exception("plugin %s could not say whether it is ready", checker.name)
            continue
        if reason:
            yield f"plugin {checker.name}: {reason}"
    for parser in pipeline.parsers.parsers if app_protocol else ():
        if parser.app_protocols and app_protocol not in parser.app_protocols:
            fitting = " or ".join(parser.app_protocols)
            yield f"plugin {parser.name}: the pool's appProtocol is {app_protocol}; its requests are for {fitting}"
