"""Values as Go programs write them on command lines: Kubernetes quantities, booleans, and how durations are shown."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_MAX_INT64: Final = 2**63 - 1

_SCALE: Final = {
    "": Fraction(1),
    **{suffix: Fraction(1, 1000 ** (i + 1)) for i, suffix in enumerate(("m", "u", "n"))},
    **{suffix: Fraction(1000 ** (i + 1)) for i, suffix in enumerate(("k", "M", "G", "T", "P", "E"))},
    **{suffix: Fraction(1024 ** (i + 1)) for i, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
}
_QUANTITY: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE])?)")

_TRUE: Final = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "false", "FALSE", "False"))


def format_duration(seconds: float) -> str:
    """The shortest usual form: `50ms`, `30s`, `1m30s`."""
    if seconds and abs(seconds) < 1:
        return f"{seconds * 1e3:g}ms"
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{seconds:g}s"
    return f"{minutes:g}m{rest:g}s" if rest else f"{minutes:g}m"


def parse_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity with an optional B at its end: `10MiB`, `25MB`, `100Mi`, `4096`, `1e6`.

    Raises ValueError also for what is negative, no whole number, or more than 2^63 - 1.
    """
    bare = text.strip()
    if len(bare) > 1 and bare[-1] in "bB":
        bare = bare[:-1]
    match = _QUANTITY.fullmatch(bare)
    if match is None:
        raise ValueError(f"{text!r} is not a size; expected for example 10MiB, 25MB or a number of bytes")
    scale = Fraction(10) ** int(match[2]) if match[2] else _SCALE[match[3] or ""]
    size = Fraction(match[1]) * scale
    if size < 0:
        raise ValueError(f"{text!r} is negative; expected a size of 0 or more")
    if size.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    if size > _MAX_INT64:
        raise ValueError(f"{text!r} is too large; the largest size is 2^63 - 1 bytes")
    return int(size)


def format_bytes(size: int) -> str:
    """With the largest binary unit that divides it: `100Mi`, `4096` as `4Ki`."""
    for unit in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        scale = int(_SCALE[unit])
        if size and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)


def parse_bool(text: str) -> bool:
    """`true`, `false` and Go's other spellings (strconv.ParseBool). Raises ValueError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is not a truth value; expected true or false")
