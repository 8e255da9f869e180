"""Load from outside: wrk for closed loops, h2load for a fixed number of requests, and our own paced client for a fixed rate.

Every prompt is another one, half of it shared, except that h2load sends one body again and again.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.bench.paced import percentile
from tests.bench.prompts import Prompts

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_DONE: Final = re.compile(r"requests: \d+ total, .* (\d+) succeeded, (\d+) failed")
_FINISHED: Final = re.compile(r"finished in ([\d.]+)(us|ms|s)")
_UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
PATH: Final = "/v1/completions"


class LoadError(Exception):
    """A tool is missing, or failed, or requests did."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load generator saw."""

    requests: int
    duration_s: float
    p50_us: float
    p99_us: float


class Load(Protocol):
    """One way of asking; `scale` shortens it, `salt` makes its prompts its own."""

    async def run(self, url: str, workdir: Path, *, scale: float, salt: str) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`connections` clients, each asking again as soon as it is answered."""

    connections: int
    body_bytes: int = 1024
    duration_s: float = 2.0

    async def run(self, url: str, workdir: Path, *, scale: float, salt: str) -> Outcome:
        # wrk takes whole seconds only.
        duration_s = max(1, round(self.duration_s * scale))
        output = await _run(
            *("wrk", "-t1", f"-c{self.connections}", f"-d{duration_s}s", "--timeout", "30s", "-s", str(_SCRIPT)),
            *(f"{url}{PATH}", "--", str(self.body_bytes), salt),
        )
        return _outcome(output)


@dataclass(frozen=True, slots=True)
class Paced:
    """`rate` requests a second, evenly spaced. With `chunks`, answers are that many server-sent events, `gap_ms` apart."""

    rate: float
    duration_s: float = 2.0
    body_bytes: int = 1024
    chunks: int = 0
    gap_ms: float = 0.0

    async def run(self, url: str, workdir: Path, *, scale: float, salt: str) -> Outcome:
        output = await _run(
            *(sys.executable, "-m", "tests.bench.paced", "--url", f"{url}{PATH}", "--rate", f"{self.rate:g}"),
            *("--requests", str(max(1, round(self.rate * self.duration_s * scale)))),
            *("--body-bytes", str(self.body_bytes), "--chunks", str(self.chunks), "--gap-ms", f"{self.gap_ms:g}"),
            *("--salt", salt),
        )
        return _outcome(output)


@dataclass(frozen=True, slots=True)
class Counted:
    """`requests` requests, `at_once` of them in flight at any time, whose answers are `chunks` server-sent events each."""

    requests: int
    at_once: int
    body_bytes: int
    chunks: int
    gap_ms: float

    async def run(self, url: str, workdir: Path, *, scale: float, salt: str) -> Outcome:
        body, log = workdir / "h2load.body", workdir / "h2load.log"
        log.unlink(missing_ok=True)
        body.write_bytes(Prompts(self.body_bytes, salt=salt, stream=True).body(0))
        requests = max(1, round(self.requests * scale))
        output = await _run(
            *("h2load", "-t1", "-c1", f"-m{self.at_once}", f"-n{requests}", f"--log-file={log}", "-d", str(body)),
            *("-H", "content-type: application/json"),
            *("-H", f"x-bench-chunks: {self.chunks}", "-H", f"x-bench-gap-ms: {self.gap_ms:g}"),
            f"{url}{PATH}",
        )
        done, finished = _DONE.search(output), _FINISHED.search(output)
        if not done or not finished or int(done[1]) != requests:
            raise LoadError(f"not every request succeeded: {output[-800:]}")
        times = [float(line.split("\t")[2]) for line in log.read_text().splitlines()]
        duration_s = float(finished[1]) * _UNITS_S[finished[2]]
        return Outcome(requests, duration_s, percentile(times, 0.5), percentile(times, 0.99))


def missing_tools() -> list[str]:
    """What to install, if anything."""
    packages = {"wrk": "wrk", "h2load": "nghttp2-client"}
    return [package for tool, package in packages.items() if shutil.which(tool) is None]


def _outcome(output: str) -> Outcome:
    """From the line of JSON that ends `output`. Raises LoadError where a request failed."""
    seen = json.loads(output.strip().rpartition("\n")[2])
    if seen["failed"] or not seen["requests"]:
        raise LoadError(f"{seen['failed']} requests failed, {seen['requests']} did not: {output[-500:]}")
    return Outcome(seen["requests"], seen["duration_us"] / 1e6, seen["p50_us"], seen["p99_us"])


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    if process.returncode:
        raise LoadError(f"{command[0]} ended with status {process.returncode}: {text[-800:]}")
    return text
