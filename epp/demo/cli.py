"""`epp demo`: the command line of the demo, and how it ends.

Exit status: 0 all is well, 1 a part is missing or failed, 2 the command line is wrong, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from rich.console import Console

from epp.demo.envoy import EnvoyMissingError
from epp.demo.processes import ChildError
from epp.demo.run import DemoOptions, LoadError, run_demo
from epp.demo.screen import Screen
from epp.demo.stack import EngineMissingError
from epp.demo.workload import SIZES

_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM
_MOST_REPLICAS = 16
# Without a terminal there is no width to ask for, and lines must not be wrapped at a guess.
_PLAIN_WIDTH = 100


def main(argv: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        _check(parser, options)
    except SystemExit as end:
        return int(end.code or 0)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no tick shall not end the demo.
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    screen = Screen(console)
    try:
        with asyncio.Runner() as runner:
            runner.run(_until_terminated(DemoOptions(**vars(options)), screen))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except asyncio.CancelledError:
        return _TERMINATED
    except (ChildError, EngineMissingError, EnvoyMissingError, LoadError, aiohttp.ClientError, OSError) as error:
        print(f"epp demo: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_terminated(options: DemoOptions, screen: Screen) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run_demo(options, screen)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not 1 <= options.replicas <= _MOST_REPLICAS:
        parser.error(f"--replicas {options.replicas}: 1 to {_MOST_REPLICAS}")
    if options.config is not None and not options.config.is_file():
        parser.error(f"--config {options.config}: there is no such file")
    if options.json_path is not None and not options.json_path.parent.is_dir():
        parser.error(f"--json {options.json_path}: there is no such directory")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp demo",
        description="Start a real Envoy, real llama.cpp servers and the EPP on loopback, send conversations and one-off "
        "prompts, show each pick, and compare with round robin. Nothing is left running.",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "llamacpp", "sim"),
        default="auto",
        help="the model servers: llama.cpp, the built-in simulator, or llama.cpp where it runs (auto)",
    )
    parser.add_argument("--replicas", type=int, default=4, metavar="N", help="number of model servers (4)")
    parser.add_argument("--size", choices=tuple(SIZES), default="normal", help="how much load (normal)")
    parser.add_argument(
        "--keep", action="store_true", help="then leave everything up until Ctrl-C, and say what to try"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="EndpointPickerConfig for the EPP; without it the built-in default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", dest="json_path", help="write every number to FILE")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="keep all logs in DIR")
    return parser
