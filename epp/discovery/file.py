"""Endpoints from a file (file-discovery), and again whenever it changes.

At the start a file that is not entirely right is an error. Later a mistake must not take working endpoints away: a file that
cannot be read changes nothing, an entry that cannot be used keeps its last good state, and both are reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

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
from epp.discovery.watching import POLL_MS, follow, read_regular

_log: Final = logging.getLogger(__name__)


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
            with self.path.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
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
        await follow(self.path.absolute().parent, self._look, unwatched=self._unwatched, poll_ms=self._poll_ms)

    async def _look(self) -> None:
        await self.reload()

    def _unwatched(self, why: str) -> None:
        self._report((why,))

    async def reload(self) -> Changes:
        """Look at the file again and apply what is different. Never raises for what it finds there."""
        try:
            content = await asyncio.to_thread(read_regular, self.path, MAX_FILE_BYTES + 1)
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
