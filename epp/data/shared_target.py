"""A metrics page that the service reads for itself and hands to extractors, which may fail without harm to its own reading."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from epp.data.extractor_target import ExtractorTarget
from epp.data.load_target import LoadTarget

_log: Final = logging.getLogger(__name__)


class SharedTarget:
    """`load` says how the reading fares; what the extractors cannot read is logged, and forgotten after `stale_after_s`."""

    def __init__(
        self, load: LoadTarget, others: ExtractorTarget, *, clock: Callable[[], float], stale_after_s: float
    ) -> None:
        self.request = load.request
        self.is_idle = load.is_idle
        self.silent = load.silent
        self._load = load
        self._others = others
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._wrong = ""
        self._good_s = clock()

    @property
    def name(self) -> str:
        return self._load.name

    def take(self, body: bytes) -> str:
        wrong = self._load.take(body)
        if not wrong:
            self._hand_on(body)
        return wrong

    def forget(self) -> None:
        self._load.forget()
        self._others.forget()

    def _hand_on(self, body: bytes) -> None:
        wrong, now = self._others.take(body), self._clock()
        if not wrong:
            self._good_s = now
        elif not self._wrong:
            _log.warning("a metrics page cannot be read by all: %s", wrong)
        if wrong and now - self._good_s >= self._stale_after_s:
            self._others.forget()
        self._wrong = wrong
