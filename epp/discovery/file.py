"""Endpoints from a file (file-discovery), and again whenever it changes.

At the start a file that is not entirely right is an error. Later a mistake must not take working endpoints away: a file that
cannot be read changes nothing, an entry that cannot be used keeps its last good state, and both are reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final

from watchfiles import awatch
from watchfiles.main import FileChange

from epp.api import ConfigError
from epp.data.datastore import Changes, Datastore
from epp.data.endpoint_spec import EndpointSpec, Key
from epp.discovery.endpoint_file import (
    MAX_FILE_BYTES,
    EndpointFile,
    EndpointFileError,
    keep_what_was,
    parse_endpoint_file,
)

_log: Final = logging.getLogger(__name__)

DEBOUNCE_MS: Final = 50  # how long changes are gathered before they are looked at
# Changes that no watch reports (a link to a file elsewhere, some network file systems) are seen after this long.
POLL_MS: Final = 5000


class FileDiscovery:
    """Feeds `datastore` from the file at `path`. Call `load` once at the start, then run `watch` for as long as it lasts.

    `problems` is what was wrong at the last look, one text each; empty when all was well. `reloads` counts looks that found
    another content.
    """

    def __init__(self, path: str | Path, datastore: Datastore, *, poll_ms: int = POLL_MS) -> None:
        self.path = Path(path)
        self.datastore = datastore
        self.problems: tuple[str, ...] = ()
        self.reloads = 0
        self._poll_ms = poll_ms
        self._content: bytes | None = None
        self._specs: Mapping[Key, EndpointSpec] = {}

    def load(self) -> Changes:
        """Read the file for the first time. Raises ConfigError that lists everything that is wrong with it."""
        try:
            content = self._read()
            file = parse_endpoint_file(content)
        except (OSError, EndpointFileError) as error:
            raise ConfigError(f"endpoints file {self.path}: {error}") from error
        if file.bad_entries:
            raise ConfigError("; ".join(f"endpoints file {self.path}: {problem}" for problem in file.bad_entries))
        self._content = content
        changes = self._apply(file)
        self.datastore.synced = True
        return changes

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while True:
            try:
                await self._watch_directory()
            except OSError as error:
                self._report((f"its directory cannot be watched: {error}",))
                await asyncio.sleep(self._poll_ms / 1000)

    async def reload(self) -> Changes:
        """Look at the file again and apply what is different. Never raises for what it finds there."""
        try:
            content = await asyncio.to_thread(self._read)
        except OSError as error:
            self._content = None
            self._report((f"it cannot be read, the endpoints stay: {error}",))
            return Changes()
        if content == self._content:
            return Changes()
        self._content = content
        self.reloads += 1
        try:
            file = await asyncio.to_thread(parse_endpoint_file, content)
        except EndpointFileError as error:
            self._report((f"the endpoints stay: {error}",))
            return Changes()
        changes = self._apply(file)
        if changes:
            fields = {"added": changes.added, "removed": changes.removed, "relabelled": changes.relabelled}
            _log.info("endpoints file %s: %d endpoints", self.path, len(self._specs), extra={"fields": fields})
        return changes

    async def _watch_directory(self) -> None:
        """Watches the directory, not the file: renames and ConfigMap updates put another file in its place.

        Ends when the directory itself is another one, so that the caller watches that.
        """
        directory = self.path.absolute().parent
        identity = _identity(directory)
        async with contextlib.aclosing(self._awatch(directory)) as changes:
            news = asyncio.ensure_future(anext(changes))
            try:
                await asyncio.sleep(0)  # begins the watch, so that nothing is missed between looking and watching
                while True:
                    await self.reload()
                    if _identity(directory) != identity:
                        return
                    await news
                    news = asyncio.ensure_future(anext(changes))
            finally:
                news.cancel()
                await asyncio.wait([news])

    def _awatch(self, directory: Path) -> AsyncGenerator[set[FileChange], None]:
        return awatch(
            directory,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=DEBOUNCE_MS // 5,
            rust_timeout=self._poll_ms,
            yield_on_timeout=True,
            recursive=False,
        )

    def _read(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)

    def _apply(self, file: EndpointFile) -> Changes:
        self._specs = keep_what_was(file, self._specs)
        self._report(tuple(str(problem) for problem in file.problems))
        return self.datastore.replace_all(self._specs.values())

    def _report(self, problems: tuple[str, ...]) -> None:
        """Log what is wrong, once for as long as it stays the same."""
        if problems != self.problems:
            for problem in problems:
                _log.warning("endpoints file %s: %s", self.path, problem)
        self.problems = problems


def _identity(directory: Path) -> tuple[int, int]:
    """Tells a directory from another one of the same name. Raises OSError when there is none."""
    found = os.stat(directory)
    return found.st_dev, found.st_ino
