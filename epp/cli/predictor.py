"""`epp predictor`: how the latency predictor of a running EPP does, and how good its predictions were.

Exit status: 0 shown, 1 there is nothing to show or nobody answers, 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from epp.cli.metrics_port import MetricsPort, Unanswered, add_flags

_TYPE: Final = "predicted-latency-producer"
_COLUMNS: Final = ("requests", "error", "p90", "bias", "coverage", "±", "line")


def predictor(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.epp = MetricsPort.of(parser, options)
    try:
        options.command(options)
    except BrokenPipeError:
        raise  # the reader of a pipe has gone
    except (Unanswered, OSError) as error:
        print(f"epp predictor: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp predictor", description="How the latency predictor does, and how good its predictions were."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="is it trained, since when, and how right is it")
    export = commands.add_parser("export", help="write the newest observations and what had been predicted, as CSV")
    judge = commands.add_parser("eval", help="error and coverage of exported observations, by load and endpoint")
    report = commands.add_parser("report", help="the same as an HTML page with pictures")
    for command in (status, export, judge, report):
        add_flags(command)
        command.add_argument("--plugin", default=_TYPE, metavar="NAME", help="the producer's name (%(default)s)")
    for command in (judge, report):
        command.add_argument("file", nargs="?", type=Path, help="what export wrote; without it the EPP is asked")
        command.add_argument(
            "--train-share",
            type=_share,
            default=0.5,
            metavar="SHARE",
            help="also train a new model on this first share of the observations, and judge it on the rest (0.5; 0: do not)",
        )
    status.add_argument("--json", action="store_true", help="all that is known, as JSON")
    judge.add_argument("--json", action="store_true", help="the figures as JSON")
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to (standard output)")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", default=Path("latency-report.html"))
    status.set_defaults(command=_status)
    export.set_defaults(command=_export)
    judge.set_defaults(command=_eval)
    report.set_defaults(command=_report)
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return value


# --- asking --------------------------------------------------------------------------------------------------------------


def _records(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Observations by target, and where they come from."""
    from epp_predictor.history import BadRecords, read

    if options.file is None:
        body, source = options.epp.read(_export_path(options)), f"{options.plugin} of the EPP at {options.url}"
    else:
        body, source = options.file.read_bytes(), str(options.file)
    try:
        found = read(body.decode().splitlines())
    except (BadRecords, UnicodeDecodeError) as error:
        raise Unanswered(f"{source}: {error}") from error
    if not any(len(records) for records in found.values()):
        raise Unanswered(f"{source}: no latency has been observed")
    return found, source


def _export_path(options: argparse.Namespace) -> str:
    return f"/debug/plugins/export/{quote(options.plugin)}"


# --- commands ------------------------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> None:
    page = options.epp.get("/debug/plugins/state")
    plugin = page.get("plugins", {}).get(options.plugin)
    state = {} if plugin is None else plugin.get("state", {})
    if "trained" not in state:
        raise Unanswered(
            f"there is no {_TYPE} {options.plugin!r}; a configuration or --enable-latency-predictor adds one"
        )
    if options.json:
        print(json.dumps(state, indent=1))
        return
    for url, works in (state["servers"] or {}).items():
        print(f"{url}: {'predicts' if works else 'does not predict'}")
    if not state["servers"]:
        print("trained" if state["trained"] else "untrained: nothing is predicted yet")
    if state["problem"]:
        print(f"not learning: {state['problem']}")
    for target in ("ttft", "tpot"):
        said = []
        if told := state["targets"].get(target):
            said.append(f"model {told['version']} of {told['samples']} samples, {told['age_s']:.0f} s old")
        if judged := state["predictions"].get(target):
            said.append(
                f"of the last {judged['count']} predictions {judged['coverage']:.1%} within the interval, "
                f"median error {judged['median_error']:.1%}"
            )
        if said:
            print(f"{target}: {'; '.join(said)}")
    training = state["training"]
    if training is not None:
        for target, outcome in training.get("last", {}).items():
            if target not in state["targets"]:
                print(f"{target}: no model; the last fit was {outcome}")
        outcomes = ", ".join(f"{count} {name}" for name, count in training.get("outcomes", {}).items()) or "none yet"
        print(f"training process: {'runs' if training.get('is_running') else 'does not run'}; fits: {outcomes}")


def _export(options: argparse.Namespace) -> None:
    body = options.epp.read(_export_path(options))
    if options.output is None:
        sys.stdout.write(body.decode())
        return
    options.output.write_bytes(body)
    lines = body.count(b"\n")
    print(f"{options.output}: {lines - 1} observations", file=sys.stderr)


def _evaluations(options: argparse.Namespace) -> tuple[list[tuple[str, list[Any]]], str]:
    from epp_predictor.evaluation import as_served, trained_again

    records, source = _records(options)
    served = [found for r in records.values() if len(r) and (found := as_served(r)) is not None]
    sections = [("As served", served)]
    if options.train_share:
        again = [
            found
            for r in records.values()
            if len(r) and (found := trained_again(r, share=options.train_share)) is not None
        ]
        sections.append((f"Trained again on the first {options.train_share:.0%}, judged on the rest", again))
    return sections, source


def _eval(options: argparse.Namespace) -> None:
    sections, source = _evaluations(options)
    if options.json:
        told = [{"what": heading, "targets": [_plain(e) for e in found]} for heading, found in sections]
        print(msgspec.json.encode(told).decode())  # what is not known (NaN) is null
        return
    print(source)
    for heading, found in sections:
        print(f"\n{heading}")
        if not found:
            print("  nothing to judge: too few observations, or nothing was predicted")
        for evaluation in found:
            _print_table(evaluation)


def _print_table(evaluation: Any) -> None:
    from epp_predictor.report import cells

    rows = [(evaluation.target.upper(), "all", evaluation.overall)]
    rows += [("", f"load {part.name}", part.quality) for part in evaluation.by_load]
    rows += [("", part.name, part.quality) for part in evaluation.by_endpoint]
    width = max(len(name) for _, name, _ in rows)
    print(f"  {'':5} {'':{width}} " + " ".join(f"{head:>8}" for head in _COLUMNS))
    for target, name, quality in rows:
        print(f"  {target:5} {name:{width}} " + " ".join(f"{cell:>8}" for cell in cells(quality)))


def _plain(evaluation: Any) -> Mapping[str, object]:
    from dataclasses import asdict

    return {
        "target": evaluation.target,
        "overall": asdict(evaluation.overall),
        "by_load": {part.name: asdict(part.quality) for part in evaluation.by_load},
        "by_endpoint": {part.name: asdict(part.quality) for part in evaluation.by_endpoint},
    }


def _report(options: argparse.Namespace) -> None:
    from epp_predictor.report import page

    sections, source = _evaluations(options)
    options.output.write_text(page(sections, source=source))
    print(f"{options.output}: written", file=sys.stderr)
