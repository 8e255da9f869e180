"""Loads the state of plugins from a directory and saves it there: one file a plugin, replaced as a whole.

Making the bytes is the plugin's, piece by piece on the event loop, with requests served between the pieces; files are read,
checked and written in a thread. Whatever is wrong with a file costs what it held and a line in the log, never the service.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from epp import version
from epp.api import Plugin, StateKeeper
from epp.observability.logs import DEBUG, INFO, log_event
from epp.state.file import Header, StateFileError, Writer, read

_log: Final = logging.getLogger("epp.state")
_SUFFIX: Final = ".state"
_AT_ONCE_BYTES: Final = 1 << 20  # written in one go
_LEFT_OVER_S: Final = 3600.0


class StateDir:
    """The directory. `problems` holds what is wrong with it as it is now, one line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: dict[str, str] = {}
        self._saving = asyncio.Lock()  # the interval's saving may be under way when the service stops

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(self._problems.values())

    def prepare(self) -> None:
        """Make the directory where it is missing. Raises OSError when nothing can be written to it."""
        self._path.mkdir(parents=True, exist_ok=True)
        trial = self._path / f".trial-{os.getpid()}"
        trial.write_bytes(b"")
        trial.unlink()
        for left_over in self._path.glob(f".*{_SUFFIX}.*"):  # of a process that was killed while it wrote
            if time.time() - left_over.stat().st_mtime > _LEFT_OVER_S:
                left_over.unlink(missing_ok=True)

    async def load(self, plugins: Iterable[Plugin]) -> None:
        """Give every plugin that keeps state what was saved of it."""
        for plugin in plugins:
            if isinstance(plugin, StateKeeper):
                await self._load(plugin)

    async def save(self, plugins: Iterable[Plugin]) -> None:
        """Write the state of every plugin that keeps some."""
        async with self._saving:
            for plugin in plugins:
                if isinstance(plugin, StateKeeper):
                    await self._save(plugin)

    async def keep(self, plugins: Callable[[], Iterable[Plugin]], *, every_s: float) -> None:
        """Save now and then, for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.save(plugins())

    # --- one plugin ----------------------------------------------------------------------------------------------------------

    async def _load(self, plugin: StateKeeper) -> None:
        file = self._file(plugin)
        try:
            header, state = await asyncio.to_thread(_read, file)
            if header.type != plugin.type:
                raise StateFileError(f"is the state of a {header.type}, not of a {plugin.type}")
            if header.version > plugin.state_version:
                raise StateFileError(
                    f"is of version {header.version}; this {plugin.type} reads versions up to {plugin.state_version}"
                )
            plugin.load_state(state, version=header.version)
        except FileNotFoundError:
            log_event(_log, DEBUG, "no saved state", plugin=plugin.name, file=str(file))
        except StateFileError as error:
            self._wrong(plugin, f"{file} {error}; it is ignored")
        except OSError as error:
            self._wrong(plugin, f"{file} cannot be read: {error.strerror or error}")
        # The bytes are the plugin's own, and the plugin may be third-party code.
        except Exception as error:
            self._wrong(plugin, f"{file} is not understood by {plugin.name}: {type(error).__name__}: {error}")
        else:
            log_event(_log, INFO, "state loaded", plugin=plugin.name, bytes=len(state), written=header.written)

    async def _save(self, plugin: StateKeeper) -> None:
        file = self._file(plugin)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            size = await self._write(plugin, beside)
            await asyncio.to_thread(_put_in_place, beside, file)
        except OSError as error:
            self._wrong(plugin, f"{file} cannot be written: {error.strerror or error}")
        # As above.
        except Exception as error:
            self._wrong(plugin, f"the state of {plugin.name} cannot be saved: {type(error).__name__}: {error}")
        else:
            self._problems.pop(plugin.name, None)
            log_event(_log, DEBUG, "state saved", plugin=plugin.name, bytes=size)
            return
        await asyncio.to_thread(beside.unlink, missing_ok=True)

    async def _write(self, plugin: StateKeeper, beside: Path) -> int:
        """The size of the file."""
        writer = Writer()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        header = Header(plugin.name, plugin.type, plugin.state_version, now, version())
        output = await asyncio.to_thread(_create, beside)
        try:
            pieces, ready, size = [writer.begin(header)], 0, 0
            for piece in plugin.save_state():
                pieces.append(writer.add(piece))
                ready += len(piece)
                if ready >= _AT_ONCE_BYTES:
                    size += await asyncio.to_thread(output.write, b"".join(pieces))
                    pieces, ready = [], 0
                else:
                    await asyncio.sleep(0)
            pieces.append(writer.end())
            return size + await asyncio.to_thread(_finish, output, b"".join(pieces))
        finally:
            await asyncio.to_thread(output.close)

    def _file(self, plugin: Plugin) -> Path:
        return self._path / (quote(plugin.name, safe="") + _SUFFIX)

    def _wrong(self, plugin: Plugin, problem: str) -> None:
        if self._problems.get(plugin.name) != problem:
            _log.warning("%s", problem)
        self._problems[plugin.name] = problem


def _read(file: Path) -> tuple[Header, memoryview]:
    return read(file.read_bytes())


def _create(file: Path) -> BinaryIO:
    # Which prompts are popular is nobody else's business.
    return os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb")


def _finish(output: BinaryIO, data: bytes) -> int:
    written = output.write(data)
    output.flush()
    os.fsync(output.fileno())
    return written


def _put_in_place(beside: Path, file: Path) -> None:
    """A rename is all or nothing; the directory is synced so that it survives a loss of power, too."""
    beside.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
