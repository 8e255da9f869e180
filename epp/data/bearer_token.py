"""A bearer token from a file, read again when the file changes: tokens of service accounts are replaced every hour."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Final

from epp.api import ConfigError

_log: Final = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 10.0


class BearerToken:
    """Call it for the token. Raises ConfigError when the file cannot be used at the start; later the last token stays."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._seen: object = None
        self._looked_s = -math.inf
        self._complained = False
        try:
            self._token = self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"bearerTokenPath: {path} cannot be used: {error}") from error

    def __call__(self) -> str:
        """The same object until there is another token."""
        now = self._clock()
        if now - self._looked_s >= LOOK_AGAIN_S:
            self._looked_s = now
            self._look()
        return self._token

    def _look(self) -> None:
        try:
            if self._state() == self._seen:
                return
            self._token = self._read()
            self._complained = False
        except (OSError, ValueError) as error:
            if not self._complained:
                _log.warning("the bearer token in %s cannot be read, the last one is used: %s", self._path, error)
            self._complained = True

    def _read(self) -> str:
        self._seen = self._state()
        self._looked_s = self._clock()
        with open(self._path, encoding="ascii") as file:
            token = file.read().strip()
        if not token or not token.isprintable() or " " in token:
            raise ValueError("expected one token and nothing else")
        return token

    def _state(self) -> object:
        found = os.stat(self._path)
        return found.st_mtime_ns, found.st_size, found.st_ino
