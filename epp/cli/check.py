"""`epp check`: what a configuration comes to, and everything that is wrong with it."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
from collections.abc import Sequence
from time import monotonic

from epp.api import Fleet
from epp.app import ALWAYS_PREDICTING, make_registry
from epp.cli.flags import UsageError
from epp.cli.options import latency_predictor_in, plugin_defaults
from epp.cli.problems import print_problems
from epp.config import (
    Environment,
    InvalidConfig,
    build,
    describe,
    load_default,
    load_file,
    load_text,
    resolved_of,
    to_yaml,
)
from epp.observability.metrics import Recorder


def check(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, or 2 when the configuration cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        defaults = plugin_defaults(os.environ)
        predicting = options.enable_latency_predictor or latency_predictor_in(os.environ)
    except UsageError as error:
        print(f"epp check: {error}", file=sys.stderr)
        return 2
    if options.file == "-":
        loaded = load_text(sys.stdin.read(), "<stdin>")
    else:
        loaded = load_file(options.file) if options.file else load_default(predicting=predicting)
    recorder = Recorder(monotonic, process=False)
    environment = Environment(
        fleet=Fleet(),
        clock=monotonic,
        random=random.Random(0),
        log=logging.getLogger("epp.plugins"),
        metrics=recorder.plugin_metrics,
        allow_experimental=options.allow_experimental_plugins,
        always=ALWAYS_PREDICTING if predicting else (),
    )
    try:
        pipeline = build(loaded, make_registry(defaults), environment)
    except InvalidConfig as error:
        print_problems(error.problems)
        return 2
    if options.output == "yaml":
        print_problems(resolved_of(pipeline).warnings)
        print(to_yaml(resolved_of(pipeline)), end="")
    else:
        print(describe(pipeline), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp check",
        description="Read an EndpointPickerConfig; print what runs, in which order, and what was added by default.",
    )
    parser.add_argument(
        "file", nargs="?", help="a YAML or JSON file, - for standard input; the built-in default without"
    )
    parser.add_argument("--output", "-o", choices=("text", "yaml"), default="text", help="default: %(default)s")
    parser.add_argument("--allow-experimental-plugins", action="store_true", help="as in epp run")
    parser.add_argument("--enable-latency-predictor", action="store_true", help="as in epp run")
    return parser
