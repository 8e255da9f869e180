"""The columns of the table: what is measured side by side. Another one is another entry of COLUMNS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from epp.state.file import Header, Writer
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_predictor.fitting import Recipe
from tests.bench.go_epp import HOW_TO_GET, find_go_epp
from tests.support.latency import model

PREDICTOR: Final = PredictedLatencyProducer.type


@dataclass(frozen=True, slots=True)
class Place:
    """Where a column's server is to listen, what it serves for, and with which configuration."""

    grpc_port: int
    health_port: int
    metrics_port: int
    endpoints: Sequence[str]
    config: Path
    refresh_ms: int


@dataclass(frozen=True, slots=True)
class Column:
    """`command` is None for Envoy alone, which the others' latency is compared with. `missing` says why it cannot run."""

    key: str
    title: str
    command: Callable[[Place], list[str]] | None
    is_epp: bool
    only: frozenset[str] = frozenset()
    """Scenarios in which it is measured; empty: all."""
    missing: Callable[[], str | None] = lambda: None
    settle_s: float = 0.0
    """From its waking until it is measured."""


def _echo(transport: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        echo = [sys.executable, "-m", "tests.bench.echo", "--transport", transport]
        return [*echo, "--port", str(place.grpc_port), "--endpoints", ",".join(place.endpoints)]

    return command


def _full(transport: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        return [
            *(sys.executable, "-m", "epp", "run", "--transport", transport, "--listen", "127.0.0.1"),
            *_common_flags(place),
        ]

    return command


def _predicting(place: Place) -> list[str]:
    """As `_full`, with latency prediction by a model that it finds in its state directory."""
    config, state = place.config.with_name("predicting.yaml"), place.config.with_name("predicting-state")
    text = place.config.read_text()
    config.write_text(text.replace("plugins:\n", f"plugins:\n- type: {PREDICTOR}\n", 1))
    state.mkdir(exist_ok=True)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    writer = Writer()
    header = Header(PREDICTOR, PREDICTOR, PredictedLatencyProducer.state_version, written, "tests.bench")
    saved = writer.begin(header) + writer.add(model(trees=Recipe().trees)) + writer.end()
    (state / f"{PREDICTOR}.state").write_bytes(saved)
    with_prediction = replace(place, config=config)
    return [*_full("lean")(with_prediction), "--state-dir", str(state)]


def _go(place: Place) -> list[str]:
    return [str(find_go_epp()), "--tracing=false", "--metrics-endpoint-auth=false", *_common_flags(place)]


def _common_flags(place: Place) -> list[str]:
    """Flags that both EPPs know: the same configuration for both."""
    return [
        *("--config-file", str(place.config), "--pool-name", "bench", "--secure-serving=false", "--v", "1"),
        *("--grpc-port", str(place.grpc_port), "--grpc-health-port", str(place.health_port)),
        *("--metrics-port", str(place.metrics_port), "--refresh-metrics-interval", f"{place.refresh_ms}ms"),
    ]


@cache
def _transports() -> str:
    """The line of `epp run --help` that names the transports."""
    text = subprocess.run([sys.executable, "-m", "epp", "run", "--help"], capture_output=True, text=True).stdout
    return next((line for line in text.splitlines() if "--transport" in line), "")


def _lean_missing() -> str | None:
    return None if "lean" in _transports() else "epp run offers no --transport lean"


def _go_missing() -> str | None:
    return None if find_go_epp() else HOW_TO_GET


COLUMNS: Final = (
    Column("envoy", "bare Envoy", None, is_epp=False),
    Column("echo-lean", "lean echo", _echo("lean"), is_epp=False),
    Column("echo-aio", "grpc.aio echo", _echo("aio"), is_epp=False),
    Column("epp-lean", "epp lean", _full("lean"), is_epp=True, missing=_lean_missing),
    Column(
        "epp-predict",
        "epp lean, predicting",
        _predicting,
        is_epp=True,
        only=frozenset(("closed-16", "stream-64")),
        settle_s=1.2,  # until it has read metrics again: its model has seen none as old as its sleep
    ),
    Column("epp-grpcio", "epp grpcio", _full("grpcio"), is_epp=True),
    Column("go-epp", "Go EPP", _go, is_epp=True, missing=_go_missing),
)
# Columns whose server is a Python process.
PYTHON: Final = frozenset(("echo-lean", "echo-aio", "epp-lean", "epp-predict", "epp-grpcio"))
