"""Anything as JSON: for log lines and debug pages, which must not fail over a value."""

from __future__ import annotations

import enum

import msgspec
import numpy as np


def encode_json(value: object) -> bytes:
    """JSON. Arrays become lists, numbers that JSON lacks become null, what is left becomes its `str`."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, ValueError, RecursionError, UnicodeError):
        # Keys that are no strings, text with lone surrogates, or an object that contains itself.
        return msgspec.json.encode(str(value).encode("utf-8", "backslashreplace").decode())


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset | range):
        return list(value)
    return str(value)
