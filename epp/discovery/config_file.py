"""Reads the configuration file again whenever it changes. What becomes of it is decided by whoever is told.

A file that is replaced in one step (a rename, a ConfigMap update) is read whole. One that an editor writes in place is read
50 ms after the last change at the earliest, and again if it was not finished then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from epp.config import Loaded, load_bytes
from epp.config.load import MAX_BYTES
from epp.discovery.watching import POLL_MS, follow, read_regular


class ConfigFileWatch:
    """Tells `changed` of every content of the file at `path` but `known`, and `unreadable` why there is none.

    Neither is told the same twice in a row. Run `watch` for as long as the file is to be followed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        changed: Callable[[Loaded], object],
        unreadable: Callable[[str], None],
        known: Loaded | None = None,
        poll_ms: int = POLL_MS,
    ) -> None:
        self.path = Path(path).absolute()
        self._name = str(path)
        self._changed = changed
        self._unreadable = unreadable
        self._known = known
        self._poll_ms = poll_ms
        self._content: bytes | None = None
        self._trouble = ""

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        await follow(self.path.parent, self.look, unwatched=self._report, poll_ms=self._poll_ms)

    async def look(self) -> None:
        """Read the file and tell what is new. Never raises for what it finds there."""
        try:
            content = await asyncio.to_thread(read_regular, self.path, MAX_BYTES + 1)
        except OSError as error:
            self._report(f"{self._name}: cannot read the file: {error.strerror or error}")
            return
        if content == self._content:
            return
        loaded = await asyncio.to_thread(load_bytes, content, self._name)
        self._content = content
        known, self._known = self._known, None
        recovered, self._trouble = bool(self._trouble), ""
        if recovered or loaded != known:
            self._changed(loaded)

    def _report(self, trouble: str) -> None:
        self._content = None  # whatever is there next is told
        if trouble != self._trouble:
            self._trouble = trouble
            self._unreadable(trouble)
