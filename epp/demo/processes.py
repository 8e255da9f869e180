"""Child processes that never outlive their parent. Starting, waiting until ready, reading logs, stopping.

Three things end a child: ``stop()``, the end of the ``Children`` block that started it, and the death of this process,
however it dies. The last is the kernel's doing (PR_SET_PDEATHSIG, Linux only): a SIGKILL or a crash leaves nothing behind.
Every child leads its own process group: Ctrl-C reaches only this process, which then stops the others in order.

Start children from the thread that lives longest: the kernel watches the *thread* that forked, see prctl(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp

# Runs in the child before the real program replaces it, under the same pid. A preexec_fn would run Python between fork
# and exec, where a lock held by another thread (gRPC has several) can hang it. The parent may have died before prctl.
_LEASH = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if sys.platform == "linux":
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"cannot ask the kernel for a death signal: {os.strerror(ctypes.get_errno())}")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent process is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot run {sys.argv[2]}: {error.strerror}")
"""
Answer = TypeVar("Answer")

_TAIL_BYTES = 4000
_TAIL_LINES = 20
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.1


def leashed(command: Sequence[str]) -> list[str]:
    """``command`` such that the kernel kills it when the thread of this process that starts it has ended."""
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]


class ChildError(Exception):
    """A child ended too early or was not ready in time. The message carries the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """One running program. Its output goes to ``<name>.out`` and ``<name>.err`` in the log directory."""

    name: str
    process: asyncio.subprocess.Process
    stdout_path: Path
    stderr_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.process.returncode

    def log_tail(self) -> str:
        """The last lines of both logs, standard error last."""
        return "\n".join(part for part in map(_tail, (self.stdout_path, self.stderr_path)) if part)

    def error(self, problem: str) -> ChildError:
        """``problem`` as an exception that names this child and shows the end of its log."""
        tail = self.log_tail() or "(it wrote nothing)"
        return ChildError(f"{self.name} {problem}; see {self.stderr_path}, which ends:\n{tail}")

    async def stop(self, grace_s: float = 3.0) -> None:
        """End the whole process group: SIGTERM, then SIGKILL after ``grace_s``. Does nothing if it has ended."""
        if self.returncode is None:
            self._signal_group(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), grace_s)
            except TimeoutError:
                self._signal_group(signal.SIGKILL)
        await self.process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Children:
    """The programs started in one ``async with`` block; leaving it, by any way, stops them all."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self._children: list[Child] = []

    async def start(
        self, command: Sequence[str], *, name: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Child:
        """Start ``command`` and return at once; ``env`` adds to this process's environment.

        ``name`` must be unique in the block: it names the log files. A program that cannot be run shows as a child that
        exits with status 1 and says why in its log.
        """
        if any(child.name == name for child in self._children):
            raise ValueError(f"a child named {name!r} was already started")
        self.log_dir.mkdir(parents=True, exist_ok=True)
        out, err = self.log_dir / f"{name}.out", self.log_dir / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *leashed(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        child = Child(name, process, out, err)
        self._children.append(child)
        return child

    async def stop(self, grace_s: float = 3.0) -> None:
        """Stop every child, all at the same time."""
        await asyncio.gather(*(child.stop(grace_s) for child in self._children))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def wait_until(
    child: Child, probe: Callable[[], Awaitable[Answer | None]], *, what: str, deadline_s: float
) -> Answer:
    """Ask ``probe`` again and again until it returns something, and return that.

    Raises ChildError when the child ends first, or when ``deadline_s`` has passed; ``what`` completes "before it ...".
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + deadline_s
    pause_s = _FIRST_PAUSE_S
    while True:
        if child.returncode is not None:
            raise child.error(f"ended with status {child.returncode} before it {what}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(give_up_at):
                answer = await probe()
            if answer is not None:
                return answer
        if loop.time() >= give_up_at:
            raise child.error(f"took longer than {deadline_s:g} s before it {what}")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


async def wait_for_tcp(child: Child, host: str, port: int, *, deadline_s: float) -> None:
    """Return when ``host:port`` accepts connections."""

    async def probe() -> bool | None:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            return None
        writer.close()
        return True

    await wait_until(child, probe, what=f"listened on {host}:{port}", deadline_s=deadline_s)


async def wait_for_http(child: Child, url: str, *, deadline_s: float) -> None:
    """Return when a GET of ``url`` is answered with 200."""
    async with aiohttp.ClientSession() as session:

        async def probe() -> bool | None:
            try:
                async with session.get(url) as response:
                    return True if response.status == 200 else None
            except (aiohttp.ClientError, OSError):
                return None

        await wait_until(child, probe, what=f"answered 200 on {url}", deadline_s=deadline_s)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
