"""Kubernetes quantities (`1Gi`, `500M`, `1k`, `1e3`, 42) as whole numbers.

Source: the resource.Quantity notation of k8s.io/apimachinery; fractions round up, as its Value() does.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

_NOTATION = re.compile(
    r"\+?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([-+]?[0-9]{1,2}))?", re.ASCII
)
_BINARY = {f"{prefix}i": 1024 ** (i + 1) for i, prefix in enumerate("KMGTPE")}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_LARGEST = 2**63 - 1


def parse_quantity(value: str | int | float) -> int:
    """A whole number ≥ 0. Raises ValueError."""
    match = _NOTATION.fullmatch(str(value))
    if match is None:
        raise ValueError(f"expected a quantity such as 1Gi, 500M or 1000, got {value!r}")
    digits, binary, decimal, exponent = match.groups()
    number = Decimal(digits)
    if binary:
        number *= _BINARY[binary]
    else:
        number = number.scaleb(_DECIMAL[decimal] if decimal else int(exponent or 0))
    if number > _LARGEST:
        raise ValueError(f"expected a quantity below 2^63, got {value!r}")
    return math.ceil(number)
