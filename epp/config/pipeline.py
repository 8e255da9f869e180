"""The pipeline: everything that a configuration decides about a request, as one immutable object.

A reload builds another one and swaps one reference; a request ends on the pipeline it began with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from epp.api import (
    Admitter,
    Background,
    Code,
    DataProducer,
    EndpointListener,
    Parser,
    Plugin,
    PreRequest,
    ReadinessChecker,
    RequestError,
    RequestHeaderProcessor,
    ResponseComplete,
    ResponseEnding,
    ResponseReceived,
    ResponseStreaming,
    SaturationDetector,
    Screener,
)
from epp.scheduling.scheduler import Scheduler

P = TypeVar("P", bound=Plugin)

_MOST_KNOWN_PATHS: Final = 1024


class ParserTable:
    """Which parser reads which path: the longest matching suffix wins, a parser without paths takes the rest."""

    __slots__ = ("_by_suffix", "_known", "fallback", "parsers")

    def __init__(self, parsers: Sequence[Parser]) -> None:
        self.parsers = tuple(parsers)
        self.fallback: Parser | None = None
        by_suffix: dict[str, Parser] = {}
        for parser in parsers:
            paths = parser.paths()
            if not paths:
                self.fallback = parser
                break
            for suffix in paths:
                by_suffix.setdefault(suffix.strip("/"), parser)
        self._by_suffix = sorted(by_suffix.items(), key=lambda item: -len(item[0]))
        self._known: dict[str, Parser] = {}

    def find(self, path: str) -> Parser:
        """The parser for `path` (query and trailing slash are ignored; empty means `/v1/completions`).

        Raises RequestError (BAD_REQUEST) when no parser claims it.
        """
        parser = self._known.get(path)
        if parser is None:
            parser = self._search(path)
            # Clients choose paths: what is kept is bounded.
            if len(self._known) < _MOST_KNOWN_PATHS:
                self._known[path] = parser
        return parser

    def _search(self, path: str) -> Parser:
        bare = path.partition("?")[0].rstrip("/") or "/v1/completions"
        for suffix, parser in self._by_suffix:
            if bare.endswith(suffix) and (len(bare) == len(suffix) or bare[-len(suffix) - 1] in "/."):
                return parser
        if self.fallback is None:
            raise RequestError(Code.BAD_REQUEST, f"no parser registered matching path suffix for: {path}")
        return self.fallback


class Pipeline:
    """Plugins by extension point, each in configuration order (producers: providers before their consumers)."""

    __slots__ = (
        "__weakref__",  # whoever swaps pipelines learns that the last request on one has ended
        "admitters",
        "background",
        "config_hash",
        "endpoint_listeners",
        "parsers",
        "plugins",
        "pre_request",
        "producers",
        "readiness_checkers",
        "request_header",
        "response_complete",
        "response_ending",
        "response_later_pieces",
        "response_received",
        "response_streaming",
        "saturation_detector",
        "scheduler",
        "screeners",
        "settings",
    )

    def __init__(
        self,
        *,
        plugins: Mapping[str, Plugin],
        producers: Sequence[DataProducer],
        parsers: Sequence[Parser],
        scheduler: Scheduler,
        saturation_detector: SaturationDetector,
        config_hash: str,
        settings: Mapping[str, Any],
    ) -> None:
        self.plugins = dict(plugins)
        self.producers = tuple(producers)
        self.parsers = ParserTable(parsers)
        self.scheduler = scheduler
        self.saturation_detector = saturation_detector
        self.config_hash = config_hash
        self.settings = dict(settings)  # feature gates and sections that other rooms read
        everyone = self.plugins.values()
        self.request_header = _filling(RequestHeaderProcessor, everyone)
        self.screeners = _filling(Screener, everyone)
        self.admitters = _filling(Admitter, everyone)
        self.pre_request = _filling(PreRequest, everyone)
        self.response_received = _filling(ResponseReceived, everyone)
        self.response_streaming = _filling(ResponseStreaming, everyone)
        self.response_later_pieces = tuple(p for p in self.response_streaming if not p.first_piece_only)
        self.response_ending = _filling(ResponseEnding, everyone)
        self.response_complete = _filling(ResponseComplete, everyone)
        self.endpoint_listeners = _filling(EndpointListener, everyone)
        self.background = _filling(Background, everyone)
        self.readiness_checkers = _filling(ReadinessChecker, everyone)


def _filling(point: type[P], plugins: Iterable[Plugin]) -> tuple[P, ...]:
    return tuple(p for p in plugins if isinstance(p, point))
