"""Flame graphs of what is measured, by py-spy: it reads the process's memory from outside and never stops it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

_PY_SPY: Final = Path(sys.executable).with_name("py-spy")
_SAMPLES_PER_S: Final = 500


def missing() -> str | None:
    """Why no flame graph can be made, or None."""
    return None if _PY_SPY.exists() else "py-spy is missing; install it with: pip install py-spy"


@asynccontextmanager
async def recorded(pid: int, path: Path) -> AsyncIterator[None]:
    """Writes an SVG of what the Python process `pid` did in the meantime to `path`."""
    process = await asyncio.create_subprocess_exec(
        *(_PY_SPY, "record", "--nonblocking", "--function", "--rate", str(_SAMPLES_PER_S)),
        *("--duration", "unlimited", "--pid", str(pid), "--output", path),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
