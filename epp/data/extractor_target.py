"""What one endpoint answers to a data source, handed to the source's extractors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

from epp.api import Endpoint
from epp.data.source_errors import SourceErrors

_log: Final = logging.getLogger(__name__)


class PageExtractor(Protocol):
    """An extractor plugin (`epp.api.Extractor`)."""

    name: str
    type: ClassVar[str]

    def extract(self, endpoint: Endpoint, body: bytes) -> None: ...

    def forget(self, endpoint: Endpoint) -> None: ...


class ExtractorTarget:
    """Each extractor for itself: one that fails keeps no other from reading. Nothing of theirs is written once it is gone."""

    def __init__(
        self,
        endpoint: Endpoint,
        extractors: Sequence[PageExtractor],
        request: Callable[[], bytes],
        errors: SourceErrors,
    ) -> None:
        self.name = ", ".join(extractor.name for extractor in extractors)
        self.request = request
        self._endpoint = endpoint
        self._extractors = extractors
        self._errors = errors
        self._broken: set[str] = set()

    def take(self, body: bytes) -> str:
        """What the first of those that failed says. One that raises anything but ValueError is a defect, and is logged so."""
        wrong = ""
        for extractor in self._extractors:
            try:
                extractor.extract(self._endpoint, body)
            except ValueError as error:
                wrong = wrong or f"{extractor.name}: {error}"
            except Exception as error:
                if extractor.name not in self._broken:
                    _log.exception("%s fails on what endpoint %s answers", extractor.name, self._endpoint.name)
                self._broken.add(extractor.name)
                wrong = wrong or f"{extractor.name}: {type(error).__name__}"
            else:
                self._broken.discard(extractor.name)
                continue
            self._errors.extractor_failed(extractor.type)
        return wrong

    def forget(self) -> None:
        for extractor in self._extractors:
            try:
                extractor.forget(self._endpoint)
            except Exception:
                _log.exception("%s cannot forget endpoint %s", extractor.name, self._endpoint.name)

    def silent(self, is_silent: bool) -> None:
        """Other sources than the server's own metrics say nothing about the server."""

    def is_idle(self) -> bool:
        return False
