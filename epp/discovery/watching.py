"""Looks at a directory again whenever something in it changes. What is looked at, and what follows, is the caller's.

Files that are followed are read with `read_regular`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Final

from watchfiles import Change, awatch
from watchfiles.main import FileChange

DEBOUNCE_MS: Final = 50  # how long changes are gathered before they are looked at
# Changes that no watch reports (a link to a file elsewhere, some network file systems) are seen after this long.
POLL_MS: Final = 5000

Look = Callable[[], Awaitable[None]]


def read_regular(path: Path, at_most: int) -> bytes:
    """The first bytes of a file. Raises OSError, also for a pipe: a thread that waits for one to be written to never ends, and
    so neither does the process."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(at_most)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


async def follow(directory: Path, look: Look, *, unwatched: Callable[[str], None], poll_ms: int = POLL_MS) -> None:
    """Call `look` at once and after every change in `directory`, until cancelled.

    The directory and not a file is watched: renames and ConfigMap updates put another file in a file's place. While it cannot
    be watched (it is gone), `unwatched` is told why every `poll_ms`.
    """
    while True:
        try:
            await _follow_one(directory, look, poll_ms)
        except OSError as error:
            unwatched(f"the directory {directory} cannot be watched: {error}")
            await asyncio.sleep(poll_ms / 1000)


async def _follow_one(directory: Path, look: Look, poll_ms: int) -> None:
    """Ends when the directory of that name is another one, so that the caller watches that."""
    identity = _identity(directory)
    async with contextlib.aclosing(_changes(directory, poll_ms)) as changes:
        news = asyncio.ensure_future(anext(changes))
        try:
            await asyncio.sleep(0)  # begins the watch, so that nothing is missed between looking and watching
            while True:
                await look()
                if _identity(directory) != identity:
                    return
                if any(change is Change.deleted and Path(path) == directory for change, path in await news):
                    return  # one that is there by now may have got its number
                news = asyncio.ensure_future(anext(changes))
        finally:
            news.cancel()
            await asyncio.wait([news])


def _changes(directory: Path, poll_ms: int) -> AsyncGenerator[set[FileChange], None]:
    return awatch(
        directory,
        watch_filter=None,
        debounce=DEBOUNCE_MS,
        step=DEBOUNCE_MS // 5,
        rust_timeout=poll_ms,
        yield_on_timeout=True,
        recursive=False,
    )


def _identity(directory: Path) -> tuple[int, int]:
    """Tells a directory from another one of the same name. Raises OSError when there is none."""
    found = os.stat(directory)
    return found.st_dev, found.st_ino
