"""The training process: `python -m epp_predictor.worker FD`, started by `process.TrainingProcess`.

FD is the shared memory. It listens on its standard input, tells on its standard output, and ends when its input ends:
an owner that was killed leaves nobody behind.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import assert_never

from epp_predictor import codec
from epp_predictor.messages import (
    Begin,
    Fit,
    Fitted,
    Fitting,
    Flush,
    FromWorker,
    Layout,
    Ready,
    Taken,
    from_owner,
    get_snapshot,
    line,
    put_snapshot,
)
from epp_predictor.snapshot import Snapshot
from epp_predictor.trainer import Trainer

_STDIN, _STDOUT = 0, 1


class Worker:
    """Reads samples, fits when due, puts what is published into the outbox."""

    def __init__(self, begin: Begin, memory: memoryview) -> None:
        self._memory = memory
        self._ring = Layout(begin.capacity).ring(memory)
        self._next = begin.start
        self._trainer = Trainer(begin.settings, in_use=_in_use(memory))
        self._outbox_is_free = True
        self._asked = False

    def handle(self, message: Taken | Fit | Flush) -> None:
        match message:
            case Taken():
                self._outbox_is_free = True
            case Fit():
                self._asked = True
            case Flush():
                self.read()
                self._trainer.flush()
            case _:
                assert_never(message)

    def read(self) -> None:
        rows, self._next = self._ring.read(self._next)
        if len(rows):
            self._trainer.add(rows, time.time())

    def step(self) -> Iterator[FromWorker]:
        """Read what has come, and fit if it is time. Yields what to tell the owner, when to tell it."""
        self.read()
        reason = "asked" if self._asked else self._trainer.due(time.time())
        if not reason or not self._outbox_is_free:
            return
        self._asked = False
        yield Fitting(reason)
        before = time.perf_counter()
        training = self._trainer.train(time.time(), reason)
        if training.snapshot is not None:
            put_snapshot(self._memory, codec.encode(training.snapshot))
            self._outbox_is_free = False
        took_s = time.perf_counter() - before
        has_snapshot = training.snapshot is not None
        trainer = self._trainer
        yield Fitted(reason, list(training.outcomes), has_snapshot, took_s, trainer.samples, trainer.refused)


def _in_use(memory: memoryview) -> Snapshot | None:
    data = get_snapshot(memory)
    return codec.decode(data) if data else None


def run(fd: int) -> int:
    """Returns the exit status: 0 when its input has ended."""
    memory = memoryview(mmap.mmap(fd, os.fstat(fd).st_size))
    os.close(fd)
    lines = _Lines()
    first = from_owner.decode(next(lines.wait(None)))
    if not isinstance(first, Begin):
        raise TypeError(f"expected the message begin first, got {type(first).__name__}")
    os.nice(first.niceness)
    worker = Worker(first, memory)
    _tell(Ready())
    while True:
        for text in lines.wait(first.tick_s):
            message = from_owner.decode(text)
            if not isinstance(message, Begin):
                worker.handle(message)
        if lines.ended:
            return 0
        for told in worker.step():
            _tell(told)


def _tell(message: FromWorker) -> None:
    data = line(message)
    while data:
        data = data[os.write(_STDOUT, data) :]


class _Lines:
    """Lines of the standard input, read without blocking longer than asked."""

    def __init__(self) -> None:
        self._rest = b""
        self.ended = False

    def wait(self, timeout_s: float | None) -> Iterator[bytes]:
        """Lines that have come, at once or within `timeout_s` (None: wait for one)."""
        while not self.ended:
            if timeout_s is not None and not select.select([_STDIN], [], [], timeout_s)[0]:
                return
            data = os.read(_STDIN, 65536)
            self.ended = not data
            *whole, self._rest = (self._rest + data).split(b"\n")
            if whole:
                yield from whole
                return


if __name__ == "__main__":
    try:
        raise SystemExit(run(int(sys.argv[1])))
    except (KeyboardInterrupt, BrokenPipeError):
        raise SystemExit(0) from None
