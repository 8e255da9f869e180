"""Finds the subcommand and runs it.

Exit status: 0 all is well, 1 something failed while running, 2 the command line or the configuration is wrong, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from epp import version

_USAGE: Final = """\
Usage: epp COMMAND [flags]

Commands:
  run           serve: pick an endpoint for every request that a gateway asks about
  check         read a configuration, show what it comes to and everything that is wrong with it
  plugins       list the plugin types; show the parameters, defaults and data of one
  schema        print the JSON Schema of configurations, for editors
  new-plugin    write the beginning of a plugin package: a module, its test, its pyproject.toml
  explain       tell why a running EPP chose an endpoint, and why not the others
  predictor     how the latency predictor does: its state, its errors, its observations as CSV, a page with pictures
  envoy-config  write an Envoy configuration that asks the EPP, with the body modes that its plugins need
  demo          a real Envoy, four real llama.cpp servers and the EPP, on loopback
  sim           simulated model servers, for tests
  version       print the version

`epp COMMAND --help` lists a command's flags. Flags without a command are those of `run`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("--version", "version"):
        print(f"epp {version()}")
        return 0
    if name.startswith("-"):
        # The Go EPP has no commands: what starts a container with its arguments starts ours.
        name, rest = "run", arguments
    command = _COMMANDS.get(name)
    if command is None:
        print(f"epp: there is no command {name!r}\n\n{_USAGE}", end="", file=sys.stderr)
        return 2
    try:
        return command(rest)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone (`epp check FILE | head`); without this Python complains once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str]) -> int:
    from epp.cli.run import run

    return run(arguments)


def _check(arguments: Sequence[str]) -> int:
    from epp.cli.check import check

    return check(arguments)


def _plugins(arguments: Sequence[str]) -> int:
    from epp.cli.plugins import plugins

    return plugins(arguments)


def _schema(arguments: Sequence[str]) -> int:
    from epp.cli.schema import schema

    return schema(arguments)


def _new_plugin(arguments: Sequence[str]) -> int:
    from epp.cli.new_plugin import new_plugin

    return new_plugin(arguments)


def _explain(arguments: Sequence[str]) -> int:
    from epp.cli.explain import explain

    return explain(arguments)


def _predictor(arguments: Sequence[str]) -> int:
    from epp.cli.predictor import predictor

    return predictor(arguments)


def _envoy_config(arguments: Sequence[str]) -> int:
    from epp.cli.envoy_config import envoy_config

    return envoy_config(arguments)


def _demo(arguments: Sequence[str]) -> int:
    from epp.demo.cli import main as demo

    return demo(arguments)


def _sim(arguments: Sequence[str]) -> int:
    from epp.sim.cli import main as sim

    return sim(arguments)


# Imported when asked for: `epp sim` needs no gRPC, `epp version` needs nothing.
_COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "run": _run,
    "check": _check,
    "explain": _explain,
    "plugins": _plugins,
    "schema": _schema,
    "new-plugin": _new_plugin,
    "predictor": _predictor,
    "envoy-config": _envoy_config,
    "demo": _demo,
    "sim": _sim,
}
