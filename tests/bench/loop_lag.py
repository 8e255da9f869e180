"""How late an event loop turns to what is ready.

Timers cannot tell: those of uvloop and of epoll are whole milliseconds, so a loop at rest seems to lag by most of one. Here
another process writes into a pipe what time it is, every two milliseconds, and the loop looks at the clock when it reads that.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from time import perf_counter
from typing import Final

import numpy as np

from epp.api import Floats

# perf_counter is one clock for all processes on Linux.
_TICKER: Final = """
import os, struct, time
while True:
    time.sleep(0.002)
    os.write(1, struct.pack("d", time.perf_counter()))
"""
_STAMP: Final = struct.Struct("d")
_WARM_UP: Final = 100


async def lag_ms(seconds: float) -> Floats:
    """In ms, one for each of the moments in `seconds`."""
    late: list[float] = []
    readable, writable = os.pipe()
    ticker = await asyncio.create_subprocess_exec(sys.executable, "-c", _TICKER, stdout=writable)
    os.close(writable)
    loop = asyncio.get_running_loop()

    def read() -> None:
        now_s = perf_counter()
        late.extend((now_s - at_s) * 1e3 for (at_s,) in _STAMP.iter_unpack(os.read(readable, 100 * _STAMP.size)))

    loop.add_reader(readable, read)
    try:
        await asyncio.sleep(seconds)
    finally:
        loop.remove_reader(readable)
        os.close(readable)
        ticker.kill()
        await ticker.wait()
    return np.array(late[_WARM_UP:])
