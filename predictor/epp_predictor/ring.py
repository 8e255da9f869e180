"""Rows from one writing process to one reading process, through shared memory. No locks, no waiting on either side.

The memory holds a count of rows written and a ring of rows. A row carries its number before and after its values; a
reader that was overtaken finds other numbers and skips to what is still there. Whoever maps the memory again (a
restarted reader) finds all rows that the ring still has.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import Floats

_HEADER_BYTES: Final = 64
_MARKS: Final = 2
_BEING_WRITTEN: Final = -1.0


def size_bytes(capacity: int, width: int) -> int:
    """Shared memory that a ring of `capacity` rows needs."""
    return _HEADER_BYTES + capacity * (width + _MARKS) * 8


class Ring:
    """A view of the memory, for either side. `memory` must be zeros at first and `size_bytes` long."""

    def __init__(self, memory: memoryview, capacity: int, width: int) -> None:
        self.capacity = capacity
        self._written: NDArray[np.int64] = np.frombuffer(memory, np.int64, 1)
        values = np.frombuffer(memory, np.float64, capacity * (width + _MARKS), _HEADER_BYTES)
        self._slots = values.reshape(capacity, width + _MARKS)

    @property
    def written(self) -> int:
        return int(self._written[0])

    def write(self, row: Floats) -> None:
        number = self.written
        slot = self._slots[number % self.capacity]
        slot[0] = _BEING_WRITTEN
        slot[1:-1] = row
        slot[-1] = number
        slot[0] = number
        self._written[0] = number + 1

    def read(self, start: int) -> tuple[Floats, int]:
        """Rows from number `start` on that the ring still has, and the number of the next one."""
        end = self.written
        start = min(max(start, end - self.capacity), end)
        numbers = np.arange(start, end)
        places = numbers % self.capacity
        copied = self._slots[places]
        # A row that was written meanwhile has lost its first mark before anything else of it changed.
        intact = (copied[:, 0] == numbers) & (copied[:, -1] == numbers) & (self._slots[places, 0] == numbers)
        return copied[intact, 1:-1], end
