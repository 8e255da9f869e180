"""How many requests are learnt from: all of them, up to a number a second. No I/O, no clock."""

from __future__ import annotations


class Allowance:
    """At most `rate` a second, and a second's worth at once. Who is chosen depends on nothing but the time of asking."""

    __slots__ = ("_at_s", "_left", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = rate
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Whether one more may be; then it counts."""
        left = min(self.rate, self._left + (now_s - self._at_s) * self.rate)
        self._at_s = now_s
        if left < 1:
            self._left = left
            return False
        self._left = left - 1
        return True
