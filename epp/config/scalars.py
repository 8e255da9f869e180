"""What a YAML scalar means.

The rules are those of the Go EPP's reader where they matter: yes/no/on/off are booleans, dates are text, and `2.0` and `1e+06`
(as Helm writes a million) are whole numbers.
Base-60 numbers of YAML 1.1 (`1:30`) are text here as there.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Value: TypeAlias = str | int | float | bool | None

TAG_PREFIX: Final = "tag:yaml.org,2002:"

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
_INTEGER = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+|[0-9]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_INT64_DIGITS = 18
_INT64_END = 1 << 63
_FITTING: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}


def plain_value(text: str) -> Value:
    """The value of an unquoted scalar without a tag. Infinite and not-a-number values come back as floats."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return int(number) if number.is_integer() and abs(number) < _INT64_END else number
    if _SPECIAL.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text


def tagged_value(text: str, tag: str) -> Value:
    """The value of a scalar with an explicit tag (`!!str 5`). Raises ValueError when they do not go together."""
    kind = tag.removeprefix(TAG_PREFIX)
    if kind == "str":
        return text
    value = plain_value(text)
    if kind not in _FITTING:
        raise ValueError(f"tag {tag} is not supported")
    if type(value) not in _FITTING[kind]:
        raise ValueError(f"{text!r} is not a {kind}")
    return value


def _integer(text: str) -> int | float | str:
    digits = text.lstrip("+-")
    if len(digits) > _INT64_DIGITS:
        return float(text) if digits.isdigit() else text
    if len(digits) > 1 and digits[0] == "0" and digits.isdigit() and not set(digits) & {"8", "9"}:
        return int(text, 8)
    return int(text, 10) if digits.isdigit() else int(text, 0)
