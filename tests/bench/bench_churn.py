"""What 1,000 Pods, replaced one by one under load, cost and leave behind: `python -m tests.bench.bench_churn [PODS] [RATE]`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from tests.support.churn import Report, churn
from tests.support.control_plane import ControlPlane


def main(pods: int = 1000, rate: float = 20.0) -> int:
    with tempfile.TemporaryDirectory() as folder, ControlPlane() as plane:
        namespace = plane.create_namespace("churn")
        began = perf_counter()
        report = asyncio.run(churn(plane, namespace, Path(folder), count=pods, rate=rate))
        took_s = perf_counter() - began
    print(_told(report, pods, took_s))
    return 1 if report.failures or report.endpoints != report.wanted or report.in_flight else 0


def _told(report: Report, pods: int, took_s: float) -> str:
    held = (
        f"{name}: {getattr(report.early, name):.0f} early, {getattr(report.late, name):.0f} late"
        for name in ("memory_mib", "sockets", "threads", "series")
    )
    lines = [
        f"{pods} Pods replaced in {took_s:.0f} s, {report.sent} requests, {len(report.failures)} failed",
        f"endpoints as wanted: {report.endpoints == report.wanted}; in flight at the end: {report.in_flight:g}",
    ]
    return "\n".join([*lines, *held, *(f"failed: {failure.problem}" for failure in report.failures[:10])])


if __name__ == "__main__":
    sys.exit(main(*(int(text) for text in sys.argv[1:])))
