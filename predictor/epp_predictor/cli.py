"""The command `epp-predictor`: the predictor as services of their own.

Exit status: 0 all is well, 1 something failed while running, 2 the command line or a variable is wrong, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Final

from epp_predictor.servers.variables import (
    PREDICTION,
    TRAINING,
    BadVariable,
    PredictionSettings,
    TrainingSettings,
    Variable,
)

_DESCRIPTION: Final = """\
Latency prediction as services of their own, with the routes of llm-d's latency predictor. An EPP that predicts in its
own process needs neither."""
_TRAINING_PORT: Final = 8000


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = _parser().parse_args(argv)
    if missing := [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        print(
            f"epp-predictor: {' and '.join(missing)} not installed; pip install 'llm-epp[predictor]'", file=sys.stderr
        )
        return 2
    try:
        if arguments.command == "train":
            return _train(arguments)
        return _serve(arguments)
    except BadVariable as error:
        print(f"epp-predictor: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _train(arguments: argparse.Namespace) -> int:
    TrainingSettings.from_environment(os.environ)
    return _run("training", arguments.host, arguments.port, workers=1)


def _serve(arguments: argparse.Namespace) -> int:
    settings = PredictionSettings.from_environment(os.environ)
    host = settings.host if arguments.host is None else arguments.host
    port = settings.port if arguments.port is None else arguments.port
    workers = settings.workers if arguments.workers is None else arguments.workers
    return _run("prediction", host, port, workers=workers)


def _run(name: str, host: str, port: int, *, workers: int) -> int:
    from epp_predictor.servers.listening import listen, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        listener = listen(host, port)
    except OSError as error:
        print(f"epp-predictor: cannot listen on {host}:{port}: {error.strerror or error}", file=sys.stderr)
        return 1
    with listener:
        shown = f"[{host}]" if ":" in host else host
        print(f"{name} server on http://{shown}:{listener.getsockname()[1]}", flush=True)
        serve(f"epp_predictor.servers.{name}:app_from_environment", listener, workers=workers)
    return 0


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("epp-predictor", description=_DESCRIPTION, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="take samples, learn, give models away",
        description="Takes samples of finished requests, learns from them, and gives its models away.",
        epilog=_listed(TRAINING),
        formatter_class=shape,
    )
    train.add_argument("--host", default="0.0.0.0", help="address to listen on (default %(default)s)")
    train.add_argument("--port", type=_port, default=_TRAINING_PORT, help="port to listen on (default %(default)s)")
    serve = commands.add_parser(
        "serve",
        help="predict, with the models of a training service",
        description="Predicts TTFT and TPOT with the models of a training service, which it follows.",
        epilog=_listed(PREDICTION),
        formatter_class=shape,
    )
    serve.add_argument("--host", help="address to listen on (default PREDICT_HOST)")
    serve.add_argument("--port", type=_port, help="port to listen on (default PREDICT_PORT)")
    serve.add_argument("--workers", type=_workers, help="processes that serve (default UVICORN_WORKERS)")
    return parser


def _listed(table: tuple[Variable, ...]) -> str:
    lines = ["environment variables:"]
    for variable in table:
        default = f" (default {variable.default})" if variable.default else ""
        lines.append(f"  {variable.name}")
        lines.append(textwrap.fill(variable.text + default, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"expected 1 to 256 processes, got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
