"""What a process and its children use, as the kernel says (Linux): CPU to the nanosecond, memory, pausing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.processes import family

_PROC: Final = Path("/proc")
_CPUCLOCK_SCHED: Final = 2


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads one process, its threads and its children."""

    pid: int

    def cpu_s(self) -> float:
        """User and system time so far, in seconds, of living processes and of all the threads they ever had."""
        return sum(map(_cpu_s, family(self.pid)))

    def rss_mib(self) -> float:
        """Resident memory, in MiB; pages that children share with their parent count for each."""
        pages = 0
        for pid in family(self.pid):
            with contextlib.suppress(OSError):
                pages += int((_PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def pause(self) -> None:
        """Stop the process group until `resume`; time stands still for it."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)


def _cpu_s(pid: int) -> float:
    # The process's CPU clock, as clock_getcpuclockid(3) names it: the utime + stime of /proc/PID/stat, which count in steps
    # of 10 ms, to the nanosecond.
    with contextlib.suppress(OSError):
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    return 0.0
