"""What Python itself takes of memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable


def traced_peak_bytes(act: Callable[[], object]) -> int:
    """The most that was held at once while `act` ran, beyond what was there before."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
