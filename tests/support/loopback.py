"""Options of a service that a test runs in its own process."""

from __future__ import annotations

from typing import Any

from epp.cli.options import RunOptions


def loopback_options(**options: Any) -> RunOptions:
    """`options`, on free loopback ports and without TLS."""
    return RunOptions(
        grpc_host="127.0.0.1",
        health_host="127.0.0.1",
        metrics_host="127.0.0.1",
        grpc_port=0,
        health_port=0,
        metrics_port=0,
        secure_serving=False,
        **options,
    )
