"""`epp run`: serve until told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from epp.api import ConfigError
from epp.app import StartError, load_config, serve
from epp.cli.malloc import keep_freed_memory
from epp.cli.options import HelpRequested, RunOptions, UsageError, help_text, parse
from epp.cli.problems import print_problems
from epp.config import InvalidConfig, Loaded
from epp.observability import logs

_log: Final = logging.getLogger("epp")


def run(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    try:
        options = parse(arguments, os.environ)
    except HelpRequested:
        print(help_text(), end="")
        return 0
    except UsageError as error:
        print(f"epp run: {error}\nepp run --help lists the flags", file=sys.stderr)
        return 2
    logs.configure(options.verbosity, json=options.log_json)
    for warning in options.warnings:
        _log.warning(warning)
    return _serve(options, load_config(options))


def _serve(options: RunOptions, loaded: Loaded) -> int:
    # Requests leave no circles behind; what is collected now and then is the exception, and must not cost each of them.
    gc.set_threshold(50_000, 20, 50)
    gc.freeze()
    keep_freed_memory(os.environ)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options, loaded))
    except InvalidConfig as error:
        print_problems(error.problems)
        print("epp run: the configuration cannot be used", file=sys.stderr)
        return 2
    except (ConfigError, UsageError) as error:
        print(f"epp run: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"epp run: {error}", file=sys.stderr)
        return 1
    return 0
