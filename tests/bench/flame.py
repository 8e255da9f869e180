"""Flame graphs of what is measured, by py-spy: it reads the process's memory from outside and never stops it."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Final

_PY_SPY: Final = Path(sys.executable).with_name("py-spy")
_SAMPLES_PER_S: Final = 500
_NO_XML: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_TITLE: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*')


def missing() -> str | None:
    """Why no flame graph can be made, or None."""
    return None if _PY_SPY.exists() else "py-spy is missing; install it with: pip install py-spy"


@asynccontextmanager
async def recorded(pid: int, path: Path, title: str) -> AsyncIterator[None]:
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
        _tidy(path, title)


def _tidy(path: Path, title: str) -> None:
    """py-spy's title is its own command line, and names that it read while they changed hold what no XML may."""
    if not path.exists():
        return
    drawn = _TITLE.sub(rf"\g<1>{escape(title)}", path.read_text(errors="replace"), count=1)
    path.write_text(_NO_XML.sub("", drawn))
