"""Anything as JSON: for log lines and debug pages, which must not fail over a value."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

DEPTH: Final = 8  # of values that have to be cleaned; what lies deeper becomes text


def encode_json(value: object) -> bytes:
    """JSON. Arrays become lists, numbers that JSON lacks become null, what is left becomes its `str`."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, ValueError, RecursionError, UnicodeError):
        # Keys that are no strings, text with lone surrogates, or an object that contains itself.
        return msgspec.json.encode(_clean(value, depth=DEPTH))


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset | range):
        return list(value)
    return str(value)


def _clean(value: object, *, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, Mapping):
        return {_text(k): _clean(v, depth=depth - 1) for k, v in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_clean(v, depth=depth - 1) for v in value]
    return _text(value)


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()
