"""The training process as its owner sees it: samples go in through shared memory, snapshots come out.

    training = TrainingProcess()
    predictor = Predictor(on_sample=training.send)
    training.start()
    ...                                   # now and then, for instance every second:
    if (snapshot := training.poll()) is not None:
        predictor.publish(snapshot)
    ...
    training.close()

`send` and `poll` never block: the first writes one row into memory, the second reads what the process has said. A
process that died, or that fits for longer than it may, is started again by `poll`, after a pause that doubles. Samples
stay in shared memory, so the new one goes on with them; after two early deaths in a row it leaves them out, since they
may be what killed the others. The model in use is never touched by any of this.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Final, assert_never

import msgspec

from epp_predictor import codec
from epp_predictor.features import Floats
from epp_predictor.messages import (
    Begin,
    Fit,
    Fitted,
    Fitting,
    Flush,
    FromOwner,
    Layout,
    Ready,
    Taken,
    from_worker,
    get_snapshot,
    line,
    put_snapshot,
)
from epp_predictor.snapshot import Snapshot
from epp_predictor.trainer import Outcome, TrainerSettings

logger = logging.getLogger(__name__)

_PAUSES_S: Final = (0.5, 60.0)
"""Before the first restart, and the longest."""
_EARLY_S: Final = 30.0
"""A process that dies sooner died early."""
_CLOSE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    capacity: int = 16_384
    """Samples that shared memory holds: what comes between two looks of the process, and what a restarted one begins
    with."""
    niceness: int = 10
    tick_s: float = 0.25
    """How often the process looks for samples."""
    fit_limit_s: float = 120.0
    """A fit that takes longer is a fault; the process is ended and started again."""


@dataclass(slots=True)
class ProcessStatus:
    """For a status page and metrics. Counts are since `start`."""

    is_running: bool = False
    pid: int = 0
    restarts: int = 0
    sent: int = 0
    samples: int = 0
    """That the process holds, as of its last fit."""
    refused: int = 0
    """Samples that it found unsound."""
    fits: int = 0
    last_fit_s: float = float("nan")
    """How long the last one took."""
    last_reason: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How often each result came: published, rejected, refused, failed, died."""
    last: dict[str, Outcome] = field(default_factory=dict)
    """The last outcome of each target."""


class TrainingProcess:
    def __init__(
        self,
        settings: ProcessSettings | None = None,
        *,
        in_use: Snapshot | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`in_use`: the model that candidates have to beat, when the owner has restored one."""
        self.settings = settings if settings is not None else ProcessSettings()
        self.status = ProcessStatus()
        self._clock = clock
        layout = Layout(self.settings.capacity)
        self._fd = _shared_memory(layout.size_bytes)
        self._memory = memoryview(mmap.mmap(self._fd, layout.size_bytes))
        self._ring = layout.ring(self._memory)
        self._in_use = b"" if in_use is None else codec.encode(in_use)
        self._flushed = 0  # the samples before this number are to be forgotten
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._started_at_s = 0.0
        self._restart_at_s = 0.0
        self._pause_s = _PAUSES_S[0]
        self._early_deaths = 0
        self._fitting_since_s: float | None = None
        self._is_closed = False

    # --- samples ----------------------------------------------------------------------------------------------------------

    def send(self, row: Floats) -> None:
        """One sample (`samples.row`); for `Predictor(on_sample=...)`."""
        self._ring.write(row)
        self.status.sent += 1

    # --- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process. Returns at once: it needs about a second until it learns."""
        if self._process is not None or self._is_closed:
            raise RuntimeError("a training process is started once")
        self._spawn()

    def poll(self) -> Snapshot | None:
        """What has been published since the last call, if anything. Restarts a process that has died. Call it once a
        second or so."""
        if self._process is None:
            if not self._is_closed and self._restart_at_s and self._clock() >= self._restart_at_s:
                self.status.restarts += 1
                self._spawn()
            return None
        snapshot = self._hear(self._process)
        if self._process.poll() is not None:
            self._died(f"exit status {self._process.returncode}")
        elif self._fitting_since_s is not None and self._clock() - self._fitting_since_s > self.settings.fit_limit_s:
            self._process.kill()
            self._died(f"a fit took longer than {self.settings.fit_limit_s:g} s")
        return snapshot

    @property
    def published(self) -> bytes:
        """The model that candidates have to beat, encoded: what was published last, or was in use before. Empty: none."""
        return self._in_use

    def fit_now(self) -> None:
        """Ask for a fit whether or not one is due. Without a running process nothing happens."""
        self._say(Fit())

    def flush(self) -> None:
        """Forget all samples. Models stay."""
        self._flushed = self._ring.written
        self._say(Flush())

    def close(self) -> None:
        """End the process and free the memory. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._process is not None:
            process, self._process = self._process, None
            _end(process)
        self.status.is_running = False
        os.close(self._fd)

    def _spawn(self) -> None:
        if self._in_use:
            put_snapshot(self._memory, self._in_use)
        early = self._early_deaths >= 2
        command = [sys.executable, "-P", "-m", "epp_predictor.worker", str(self._fd)]
        # One thread each: more of them only fight with what else runs here.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        search = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._fd,),
            env={**os.environ, **threads, "PYTHONPATH": search},
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._said = b""
        self._started_at_s = self._clock()
        self._fitting_since_s = None
        self.status.is_running, self.status.pid = True, self._process.pid
        s = self.settings
        start = self._ring.written if early else self._flushed
        self._say(Begin(s.capacity, start, s.trainer, s.niceness, s.tick_s))

    def _died(self, why: str) -> None:
        process = self._process
        assert process is not None
        self._process = None
        _end(process)
        now_s = self._clock()
        early = now_s - self._started_at_s < _EARLY_S
        self._early_deaths = self._early_deaths + 1 if early else 0
        if not early:
            self._pause_s = _PAUSES_S[0]
        self._restart_at_s = now_s + self._pause_s
        self.status.is_running = False
        self._count("died")
        logger.warning("the training process has died (%s); again in %.1f s", why, self._pause_s)
        self._pause_s = min(2 * self._pause_s, _PAUSES_S[1])

    # --- talking ----------------------------------------------------------------------------------------------------------

    def _say(self, message: FromOwner) -> None:
        if self._process is None or self._process.stdin is None:
            return
        # A process that does not read 64 KiB of such lines, or is gone: `poll` will notice.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._process.stdin.fileno(), line(message))

    def _hear(self, process: subprocess.Popen[bytes]) -> Snapshot | None:
        snapshot = None
        for text in self._lines(process.stdout):
            try:
                message = from_worker.decode(text)
            except msgspec.DecodeError as error:
                logger.warning("the training process said what nobody understands: %s", error)
                continue
            match message:
                case Ready():
                    pass
                case Fitting():
                    self._fitting_since_s = self._clock()
                case Fitted():
                    self._fitting_since_s = None
                    snapshot = self._fitted(message) or snapshot
                case _:
                    assert_never(message)
        return snapshot

    def _fitted(self, message: Fitted) -> Snapshot | None:
        status = self.status
        status.fits += 1
        status.last_fit_s, status.last_reason = message.took_s, message.reason
        status.samples, status.refused = message.samples, message.refused
        for outcome in message.outcomes:
            self._count(outcome.result)
            status.last[outcome.target] = outcome
        if not message.has_snapshot:
            return None
        data = get_snapshot(self._memory)
        self._say(Taken())
        try:
            snapshot = codec.decode(data)
        except codec.BadSnapshot as error:
            logger.warning("the training process published what cannot be used: %s", error)
            return None
        self._in_use = data
        return snapshot

    def _count(self, result: str) -> None:
        self.status.outcomes[result] = self.status.outcomes.get(result, 0) + 1

    def _lines(self, pipe: IO[bytes] | None) -> list[bytes]:
        """Whole lines that can be read at once."""
        assert pipe is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(pipe.fileno(), 65536):
                self._said += data
        *whole, self._said = self._said.split(b"\n")
        return whole


def _shared_memory(size_bytes: int) -> int:
    """A file descriptor of memory without a name: gone when the last process that has it is gone, however it went."""
    if sys.platform == "linux":
        fd = os.memfd_create("epp-predictor")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size_bytes)
    return fd


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(0 if process.poll() is not None else _CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
