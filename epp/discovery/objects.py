"""Objectives and model rewrites from a directory of files, and again whenever one of them changes.

At the start a file that is not entirely right is an error. Later a mistake must not take priorities and rewrites away: a file
that cannot be read and an object that cannot be used keep their last good state, and both are reported. What is no longer
there is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from epp.api import ConfigError, Slo
from epp.data.datastore import Datastore
from epp.discovery.object_files import (
    MAX_FILE_BYTES,
    Identity,
    Object,
    ObjectFile,
    Objective,
    Pool,
    keep_what_was,
    parse_object_file,
)
from epp.discovery.watching import POLL_MS, follow, read_regular

_log: Final = logging.getLogger(__name__)

SUFFIXES: Final = (".yaml", ".yml", ".json")


class ObjectDiscovery:
    """Feeds `datastore.objectives` and `datastore.rewrites` from the files of `directory`, in the order of their names.

    Call `load` once at the start, then run `watch` for as long as it lasts. `problems` is what was wrong at the last look,
    one text each, warnings left out; empty when all was well.
    """

    def __init__(
        self, directory: str | Path, datastore: Datastore, pool: Pool | None = None, *, poll_ms: int = POLL_MS
    ) -> None:
        self.directory = Path(directory)
        self.datastore = datastore
        self.problems: tuple[str, ...] = ()
        self._pool = pool or Pool()
        self._poll_ms = poll_ms
        self._contents: dict[str, bytes] | None = None
        self._good: dict[str, dict[Identity, Object]] = {}  # by file name
        self._said: tuple[str, ...] = ()

    def load(self) -> None:
        """Read all files for the first time. Raises ConfigError that lists everything that is wrong with them."""
        try:
            contents, troubles = self._read()
        except OSError as error:
            raise ConfigError(f"--objects {self.directory}: {error.strerror or error}") from error
        files = self._parse(contents)
        wrong = [*troubles.values(), *(str(p) for file in files.values() for p in file.errors)]
        if wrong:
            raise ConfigError("\n".join(wrong))
        self._take(contents, files, troubles)

    async def watch(self) -> None:
        """Follow the directory until cancelled."""
        await follow(self.directory, self.look, unwatched=self._lost, poll_ms=self._poll_ms)

    async def look(self) -> None:
        """Read the files again and apply what is different. Never raises for what it finds there."""
        try:
            contents, troubles = await asyncio.to_thread(self._read)
        except OSError as error:
            self._lost(f"{self.directory}: {error.strerror or error}")
            return
        if contents == self._contents and not troubles:
            return
        files = await asyncio.to_thread(self._parse, contents)
        self._take(contents, files, troubles)

    def _read(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """Contents and what cannot be read, by file name. Raises OSError for the directory as a whole."""
        contents: dict[str, bytes] = {}
        troubles: dict[str, str] = {}
        for path in sorted(self.directory.iterdir()):
            if path.suffix not in SUFFIXES or path.name.startswith(".") or path.is_dir():
                continue
            try:
                contents[path.name] = read_regular(path, MAX_FILE_BYTES + 1)
            except FileNotFoundError:
                continue  # it went in the meantime
            except OSError as error:
                troubles[path.name] = f"{path}: cannot read the file: {error.strerror or error}"
        return contents, troubles

    def _parse(self, contents: Mapping[str, bytes]) -> dict[str, ObjectFile]:
        return {
            name: parse_object_file(data, str(self.directory / name), self._pool) for name, data in contents.items()
        }

    def _take(self, contents: dict[str, bytes], files: Mapping[str, ObjectFile], troubles: Mapping[str, str]) -> None:
        """Apply `files`; those that cannot be read keep what they gave."""
        before = self._good
        good = {name: keep_what_was(file, before.get(name, {})) for name, file in files.items()}
        good |= {name: before[name] for name in troubles if name in before}
        self._contents = contents
        self._good = good
        found = [p for file in files.values() for p in file.problems]
        self._say((*troubles.values(), *(str(p) for p in found)))
        self.problems = (*troubles.values(), *(str(p) for file in files.values() for p in file.errors))
        if good != before:
            self._apply({identity: made for name in sorted(good) for identity, made in good[name].items()})

    def _apply(self, objects: Mapping[Identity, Object]) -> None:
        priorities: dict[str, int | None] = {}
        slos: dict[str, Slo] = {}
        rewrites = []
        for made in objects.values():
            if isinstance(made, Objective):
                priorities[made.name] = made.priority
                slos[made.name] = made.slo
            else:
                rewrites.append(made)
        self.datastore.objectives.replace_all(priorities, slos)
        self.datastore.rewrites.replace_all(rewrites)
        fields = {"objectives": len(priorities), "rewrites": len(rewrites)}
        _log.info("objects of %s", self.directory, extra={"fields": fields})

    def _lost(self, trouble: str) -> None:
        self._contents = None  # whatever is there next is applied
        text = f"the objectives and rewrites stay: {trouble}"
        self._say((text,))
        self.problems = (text,)

    def _say(self, problems: tuple[str, ...]) -> None:
        """Log what is wrong, once for as long as it stays the same."""
        if problems != self._said:
            for problem in problems:
                _log.warning("%s", problem)
        self._said = problems
