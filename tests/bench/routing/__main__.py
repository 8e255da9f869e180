"""Routing policies on a simulated fleet of eight servers, by a recorded trace: see docs/routing.md.

The plugins are the real ones, the engines those of `epp sim`, the clock is virtual: the same arguments give the same numbers
on any machine. A run of 5,000 requests takes about ten seconds, everything about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.routing.arrivals import arrivals, read_trace
from tests.bench.routing.experiments import BASELINE, EXPERIMENTS, POLICIES, PREDICTION
from tests.bench.routing.report import Result, promises, table
from tests.bench.routing.simulation import simulate

TRACE: Final = Path(__file__).parents[4] / "shared" / "traces" / "mooncake-conversation.jsonl"
_ONLY: Final = (
    f"experiments, by commas: {', '.join(EXPERIMENTS)} (all of these), and {', '.join(PREDICTION)}, which train a latency "
    "predictor and take several times as long"
)
_OUTPUT_SHARE: Final = 0.1
_KNOWN: Final = EXPERIMENTS | PREDICTION
_WINDOW: Final = 2000  # requests by which the windows of two seeds differ


def run_one(trace: Path, experiment: str, policy: str, seed: int, count: int) -> Result:
    """One policy through one part of the trace."""
    what = _KNOWN[experiment]
    lines = read_trace(trace, first=_WINDOW * seed, count=count)
    requests = arrivals(lines, speedup=what.speedup, output_share=_OUTPUT_SHARE, seed=seed)
    outcome = simulate(POLICIES[policy], requests, msgspec.structs.replace(what.setting, seed=seed))
    return Result(experiment, policy, seed, outcome.numbers)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not options.trace.is_file():
        print(f"{options.trace}: no such file; --trace takes one of Mooncake's traces (JSON lines)", file=sys.stderr)
        return 2
    chosen = options.only.split(",") if options.only else list(EXPERIMENTS)
    unknown = set(chosen) - set(_KNOWN)
    if unknown:
        print(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(_KNOWN)}", file=sys.stderr)
        return 2
    results = list(_results(options, chosen))
    order = list(POLICIES)
    results.sort(key=lambda result: (chosen.index(result.experiment), order.index(result.policy), result.seed))
    for name in chosen:
        of_one = [result for result in results if result.experiment == name]
        title = _KNOWN[name].title
        if name in EXPERIMENTS:
            print("\n" + table(title, of_one, baseline=BASELINE))
        else:
            print("\n" + promises(title, of_one))
    if options.json:
        options.json.write_bytes(msgspec.json.encode(results))
    return 0


def _results(options: argparse.Namespace, chosen: list[str]) -> Iterator[Result]:
    jobs = [
        (options.trace, name, policy, seed, options.requests)
        for name in chosen
        for seed in range(options.seeds)
        for policy in _KNOWN[name].policies
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        running = [pool.submit(run_one, *job) for job in jobs]
        for done, future in enumerate(as_completed(running), 1):
            result = future.result()
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in result.numbers.items())
            print(f"{done}/{len(jobs)} {result.experiment}, {result.policy}, {result.seed}: {numbers}", file=sys.stderr)
            yield result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.routing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, default=TRACE, help="a trace of Mooncake (%(default)s)")
    parser.add_argument("--only", default="", help=_ONLY)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, on other parts of the trace (%(default)s)")
    parser.add_argument("--requests", type=int, default=5000, help="requests a run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers of every run here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
