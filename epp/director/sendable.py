"""What plugins want sent: headers and dynamic metadata. What cannot be is left out and told, and the rest is sent."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

# RFC 9110 section 5.1, and pseudo-headers.
_NAME: Final = re.compile(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Section 5.5: of control characters only tabs. Bytes that are no UTF-8 are surrogates from DC80 to DCFF.
_NOT_IN_VALUES: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")
_MAX_DEPTH: Final = 16
_TELL_EVERY_S: Final = 60.0


class Sendable:
    """One for all requests: it tells of what cannot be sent at most once a minute."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._told_s = -math.inf

    def headers(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """Those of `given` that can be sent; `given` itself where that is all."""
        try:
            if all(map(_is_header, given.keys(), given.values())):
                return given
        except (TypeError, AttributeError):
            pass
        pairs = dict(given) if isinstance(given, Mapping) else {}
        bad = [name for name, value in pairs.items() if not _fits(name, value)]
        self._tell("a plugin has set headers that cannot be sent", [repr(name)[:100] for name in bad])
        return {name: value for name, value in pairs.items() if name not in bad}

    def metadata(self, given: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Those namespaces of `given` that can be sent."""
        if not given:
            return {}
        if not isinstance(given, Mapping):
            self._tell("a plugin has set dynamic metadata that are no mapping", [type(given).__name__])
            return {}
        bad = [n for n, values in given.items() if not (isinstance(values, Mapping) and _is_struct({n: values}, 0))]
        if not bad:
            return given
        self._tell("a plugin has set dynamic metadata that cannot be sent", [repr(name)[:100] for name in bad])
        return {name: values for name, values in given.items() if name not in bad}

    def _tell(self, what: str, names: list[str]) -> None:
        now_s = self._clock()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._log.error(what, extra={"fields": {"names": names}})


def _fits(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, str) and _is_header(name, value)


@lru_cache(maxsize=4096)
def _is_header(name: str, value: str) -> bool:
    """Raises TypeError for what is no text."""
    return _NAME.fullmatch(name) is not None and _NOT_IN_VALUES.search(value) is None


def _is_struct(value: object, depth: int) -> bool:
    """Whether a protobuf Struct holds it."""
    if depth > _MAX_DEPTH:
        return False
    if isinstance(value, str):
        return value.isascii() or _encodes(value)
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return abs(value) <= 1e300 or value != value
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_struct(k, depth) and _is_struct(v, depth + 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_struct(item, depth + 1) for item in value)
    return False


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
