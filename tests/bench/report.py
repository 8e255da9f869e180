"""Results as tables for people. Reads figures, works nothing out but medians."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.columns import COLUMNS
from tests.bench.results import Results
from tests.bench.scenarios import SCENARIOS, ComponentScenario, IdleScenario, LoadScenario, Scenario
from tests.bench.targets import Verdict, judge, judged_column

_LABELS: Final = {
    "cpu_us": "CPU per request",
    "chunk_us": "CPU per streamed chunk",
    "added_p50_us": "added latency p50",
    "added_p99_us": "added latency p99",
    "rps": "requests/s",
    "rss_mib": "memory, MiB",
    "messages": "ext_proc messages per request",
    "cores": "cores",
    "page_cpu_us": "CPU per page",
    "pages_per_s": "pages read/s",
}
_UNITS: Final = {"ms": "ms", "gb": "GB"}
_IDLE_METRICS: Final = ("cores", "page_cpu_us", "pages_per_s", "rss_mib")


@dataclass(frozen=True, slots=True)
class _Row:
    title: str
    scenario: str
    metric: str


def print_report(console: Console, results: Results, *, style: box.Box = box.HEAVY_HEAD) -> None:
    """The table, the parts, what could not be measured, and the targets."""
    if (table := _table(results, style)).row_count:
        console.print(table)
    _print_parts(console, results)
    for name, reason in results.missing.items():
        console.print(f"[yellow]not measured[/]: {name}: {reason}", soft_wrap=True, highlight=False)
    console.print(_targets(results, style))
    load = results.machine.get("load_before", "?")
    console.print(
        f"{results.machine.get('cores')} cores of {results.machine.get('cpu')}, shared by everything in the table; "
        f"load average {load} before the run. Medians of rounds; columns take turns within a round.",
        soft_wrap=True,
        highlight=False,
    )


def print_comparison(console: Console, old: Results, new: Results) -> None:
    """Every figure of the table that both runs have: old → new, and new as a share of old."""
    table = Table(title=f"{old.started} ({old.versions.get('git')}) → {new.started} ({new.versions.get('git')})")
    table.add_column("")
    keys = [column.key for column in COLUMNS]
    for column in COLUMNS:
        table.add_column(column.title, justify="right")
    for row in _rows():
        cells = []
        for key in keys:
            before, after = (run.value(row.scenario, key, row.metric) for run in (old, new))
            cells.append(_change(row.metric, before, after))
        if any(cells):
            table.add_row(row.title, *cells)
    if not table.row_count:
        console.print("the two runs have no figure in common")
        return
    console.print(table)
    console.print(
        "Runs at different times differ by what else the machine did: compare the echoes first.", highlight=False
    )


def _change(metric: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    share = f" ({after / before:.2f})" if before > 0 else ""
    return f"{_figure(metric, before, [before, after])} → {_figure(metric, after, [before, after])}{share}"


def _rows() -> Iterator[_Row]:
    for scenario in SCENARIOS:
        for metric in _metrics(scenario):
            yield _Row(f"{scenario.title}: {_LABELS[metric]}", scenario.key, metric)


def _metrics(scenario: Scenario) -> Sequence[str]:
    if isinstance(scenario, LoadScenario):
        return ("cpu_us", *scenario.also)
    return _IDLE_METRICS if isinstance(scenario, IdleScenario) else ()


def _table(results: Results, style: box.Box) -> Table:
    table = Table(title=f"llm-epp {results.versions.get('git')}, {results.started}", box=style)
    table.add_column("")
    shown = [column for column in COLUMNS if any(column.key in found for found in results.rounds.values())]
    for column in shown:
        table.add_column(column.title, justify="right")
    for row in _rows():
        values = [results.value(row.scenario, column.key, row.metric) for column in shown]
        known = [value for value in values if value is not None]
        if known:
            table.add_row(row.title, *(_figure(row.metric, value, known) if value else "" for value in values))
    return table


def _figure(metric: str, value: float, row: Sequence[float]) -> str:
    """With one unit for all of a row."""
    if metric.endswith("_us"):
        smallest = min((abs(one) for one in row if one), default=0.0)
        return f"{value / 1000:.2f} ms" if smallest >= 1000 else f"{value:.0f} µs"
    if metric == "cores":
        return f"{value:.3f}"
    return f"{value:.1f}" if metric == "messages" else f"{value:.0f}"


def _print_parts(console: Console, results: Results) -> None:
    for scenario in SCENARIOS:
        if isinstance(scenario, ComponentScenario) and scenario.key in results.rounds:
            for column in results.rounds[scenario.key]:
                metrics = results.rounds[scenario.key][column]
                figures = ", ".join(_part(name, results.value(scenario.key, column, name) or 0.0) for name in metrics)
                console.print(f"{scenario.title}: {figures}", highlight=False)


def _part(metric: str, value: float) -> str:
    name, _, unit = metric.replace("_", " ").rpartition(" ")
    return f"{name} {value:.1f} µs" if unit == "us" else f"{name} {value:.3g} {_UNITS.get(unit, unit)}"


def _targets(results: Results, style: box.Box) -> Table:
    titles = {column.key: column.title for column in COLUMNS}
    table = Table(title=f"targets, for {titles[judged_column(results)]}", box=style)
    table.add_column("")
    for name in ("measured", "target", ""):
        table.add_column(name, justify="right")
    for verdict in judge(results):
        table.add_row(verdict.target.title, *_verdict(verdict))
    return table


def _verdict(verdict: Verdict) -> tuple[str, str, str]:
    target = verdict.target
    times = "×" if target.other else ""
    limit = f"{'≥' if target.at_least else '≤'} {target.limit:.3g}{times}"
    if verdict.measured is None:
        return "–", limit, "not measured"
    return f"{verdict.measured:.3g}{times}", limit, "[green]met[/]" if verdict.met else "[red]not met[/]"
