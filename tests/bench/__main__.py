"""`make bench`: what a request costs, side by side in one run. See docs/benchmarks.md.

python -m tests.bench                          the scenarios that matter most, about 4 minutes
python -m tests.bench --full                   all of them, about 15 minutes
python -m tests.bench --only closed-16,pick --columns epp-lean,go-epp
python -m tests.bench --compare OLD.json       run, then show what changed
python -m tests.bench --compare OLD.json --result NEW.json      only show what changed (NEW: a file, or `latest`)
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

import msgspec
from rich import box
from rich.console import Console

from epp.demo.envoy import EnvoyMissingError
from epp.demo.processes import ChildError
from tests.bench import results as kept
from tests.bench.columns import COLUMNS, Column
from tests.bench.flame import missing as missing_py_spy
from tests.bench.go_epp import find_go_epp
from tests.bench.load import missing_tools
from tests.bench.report import print_comparison, print_report
from tests.bench.runner import Effort, run
from tests.bench.scenarios import SCENARIOS, WITHOUT_BODIES, Scenario

T = TypeVar("T")
_QUICK_SCALE: Final = 0.5
_QUICK_ROUNDS: Final = 3


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 180)
    if options.list:
        _list(console)
        return 0
    try:
        old = kept.load(options.compare) if options.compare else None
        if options.result:
            return _show(console, old, options)
        scenarios, columns = _chosen(options)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        parser.error(str(error))
    if packages := missing_tools():
        print(f"load generators are missing; install them with: apt-get install {' '.join(packages)}", file=sys.stderr)
        return 2
    if options.flames and (reason := missing_py_spy()):
        print(reason, file=sys.stderr)
        return 2
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # ends the run as Ctrl-C does: servers stopped, files removed
    try:
        results = _measure(scenarios, columns, options)
    except (ChildError, EnvoyMissingError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tests.bench: stopped; nothing is kept", file=sys.stderr)
        return 130
    print_report(console, results)
    if old is not None:
        print_comparison(console, old, results)
    return 0


def _measure(scenarios: Sequence[Scenario], columns: Sequence[Column], options: argparse.Namespace) -> kept.Results:
    started = monotonic()

    def tell(what: str) -> None:
        print(f"[{monotonic() - started:4.0f} s] {what}", file=sys.stderr, flush=True)

    if options.flames:
        options.flames.mkdir(parents=True, exist_ok=True)
    results = kept.new_results(find_go_epp())
    scale, most_rounds = (1.0, options.rounds) if options.full else (_QUICK_SCALE, options.rounds or _QUICK_ROUNDS)
    run(scenarios, columns, results, Effort(scale, most_rounds), tell, flames=options.flames)
    results.derive(without_bodies=WITHOUT_BODIES)
    path = options.out or kept.new_path(results)
    kept.save(results, path)
    tell(f"figures are in {path}")
    return results


def _show(console: Console, old: kept.Results | None, options: argparse.Namespace) -> int:
    path = kept.latest(before=options.compare) if options.result == "latest" else Path(options.result)
    if path is None:
        raise ValueError(f"there is no result in {kept.FOLDER}")
    found = kept.load(path)
    if old is None:
        print_report(console, found, style=box.MARKDOWN if options.markdown else box.HEAVY_HEAD)
    else:
        print_comparison(console, old, found)
    return 0


def _chosen(options: argparse.Namespace) -> tuple[list[Scenario], list[Column]]:
    """Raises ValueError for a name that is not known."""
    scenarios = [scenario for scenario in SCENARIOS if options.full or scenario.quick]
    if options.only:
        by_key = {scenario.key: scenario for scenario in SCENARIOS}
        scenarios = [_named(by_key, name, "scenario") for name in options.only.split(",")]
    columns = list(COLUMNS)
    if options.columns:
        known = {column.key: column for column in COLUMNS}
        columns = [_named(known, name, "column") for name in options.columns.split(",")]
    return scenarios, columns


def _named(known: Mapping[str, T], name: str, kind: str) -> T:
    if name not in known:
        raise ValueError(f"no {kind} is named {name!r}; there are {', '.join(known)}")
    return known[name]


def _list(console: Console) -> None:
    for scenario in SCENARIOS:
        console.print(f"{scenario.key:20} {'quick' if scenario.quick else '':7} {scenario.title}", highlight=False)
    console.print()
    for column in COLUMNS:
        console.print(f"{column.key:20} {'':7} {column.title}: {column.missing() or 'ready'}", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the scenarios that matter most (default)")
    size.add_argument("--full", action="store_true", help="every scenario, longer and in more rounds")
    parser.add_argument("--only", metavar="SCENARIO,...", help="these scenarios")
    parser.add_argument("--columns", metavar="COLUMN,...", help="these columns")
    parser.add_argument("--rounds", type=int, help="at most so many rounds of each scenario")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to keep the figures (default: in bench-results/)"
    )
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="also show what changed since that run")
    parser.add_argument("--result", metavar="FILE", help="show this result, or `latest`, instead of a new run")
    parser.add_argument("--markdown", action="store_true", help="with --result: tables for a document")
    parser.add_argument("--flames", type=Path, metavar="FOLDER", help="record flame graphs; the figures are worth less")
    parser.add_argument("--list", action="store_true", help="what there is to choose from")
    return parser


if __name__ == "__main__":
    sys.exit(main())
