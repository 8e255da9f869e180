"""The tables of the documentation that are made from code: plugin types, extension points, metrics.

A table stands in its page between `<!-- table: NAME -->` and `<!-- end of table -->`. `python -m tests.support.docs --write`
makes all of them again; without the flag it says which are stale, and its exit status is 1 then.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import logging
import random
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from time import monotonic
from typing import Any, Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

import epp.api.plugin as extension_points
from epp.api import Endpoint, Fleet, Handle, Metric, Plugin
from epp.app import make_registry
from epp.cli.flags import NO_EFFECT
from epp.cli.options import GROUPS
from epp.cli.plugins import described, listed, sample_handle
from epp.cli.quantity import format_bytes
from epp.config import Registry
from epp.config.catalogue import facts_of, kind_order, paragraph_of, sample
from epp.discovery.kubernetes.discovery import WatchStatus
from epp.http2 import Limits
from epp.observability.catalogue import Catalogue
from epp.observability.metrics import Recorder
from epp.observability.series import Names
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from epp_plugins.variables import VARIABLES
from epp_predictor.features import FEATURES
from epp_predictor.servers.variables import PREDICTION, TRAINING, Variable
from tests.support.chart_docs import value_table, without_effect_table
from tests.support.plugins import NoMetrics

ROOT: Final = Path(__file__).resolve().parents[2]

_TABLE: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?( *<!-- end of table -->)", re.DOTALL)
# Parameters for plugins that need some and have metrics.
_EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "disaggregatedset-rollout-screener": {"scope": {"labelSelector": "set"}, "revisionGating": {"mode": "disabled"}},
}
_METHODS_OF_ALL: Final = frozenset(("produces", "consumes", "refers_to"))


# --- plugins -------------------------------------------------------------------------------------------------------------


def plugin_catalogue() -> str:
    """What `epp plugins` prints, and `epp plugins TYPE` for each in-tree type, in the same order."""
    registry, handle = make_registry(), sample_handle()
    found = sorted((facts_of(name, registry, handle) for name in BUILTIN), key=lambda f: kind_order(f.kinds[0]))
    blocks = [_text(listed(found))]
    for facts in found:
        blocks += [f"### {facts.type}", _text(described(facts, facts.type))]
    return "\n\n".join(blocks) + "\n"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(["```text", "\n".join(lines).rstrip(), "```"])


def former_table() -> str:
    """Deprecated type names, and what to use in their place."""
    lines = ["| type | use | |", "|---|---|---|"]
    for name, current in ALIASES.items():
        lines.append(_row(f"`{name}`", f"`{current}`", "another name of it"))
    for name, instead in REPLACED.items():
        if all(i in BUILTIN for i in instead):
            is_there = "still there" if name in BUILTIN else "gone"
            lines.append(_row(f"`{name}`", ", ".join(f"`{i}`" for i in instead), is_there))
    return _joined(lines)


def flags_without_effect() -> str:
    """`--a`, `--b`, ...: flags of the Go EPP that are accepted and do nothing."""
    flags = [f"`--{flag.name}`" for group in GROUPS for flag in group.flags if flag.note == NO_EFFECT]
    return textwrap.indent(textwrap.fill(", ".join(flags) + ".", 126, break_on_hyphens=False), "  ") + "\n"


# --- extension points ----------------------------------------------------------------------------------------------------


def extension_point_table() -> str:
    """Every class of `epp.api` that a plugin may extend, its methods, and when they are called."""
    lines = ["| point | methods | what it does |", "|---|---|---|"]
    for name, cls in vars(extension_points).items():
        if isinstance(cls, type) and issubclass(cls, Plugin) and cls is not Plugin:
            methods = "<br>".join(f"`{m}({_arguments(f)})`" for m, f in _methods(cls))
            lines.append(_row(f"`{name}`", methods, paragraph_of(cls.__doc__)))
    return _joined(lines)


def _methods(cls: type[Plugin]) -> Iterator[tuple[str, Callable[..., object]]]:
    for name, value in vars(cls).items():
        if inspect.isfunction(value) and not name.startswith("_") and name not in _METHODS_OF_ALL:
            yield name, value


def _arguments(method: Callable[..., object]) -> str:
    return ", ".join(p for p in inspect.signature(method).parameters if p != "self")


# --- metrics -------------------------------------------------------------------------------------------------------------


def metric_table() -> str:
    """Every metric of the metrics page but the process's own. Names for the same numbers stand in one row."""
    rows: dict[tuple[str, str], list[str]] = {}
    optional = _names(stream_metrics=True) - _names(stream_metrics=False)
    for names, kind, text in (*_families(), *_computed(), *_of_plugins()):
        note = " With `--enable-grpc-stream-metrics`." if names[0].partition("{")[0] in optional else ""
        rows.setdefault((kind, text.removeprefix("[ALPHA] ") + note), []).extend(names)
    lines = ["| metric | type | meaning |", "|---|---|---|"]
    lines += [_row("<br>".join(f"`{n}`" for n in names), kind, text) for (kind, text), names in rows.items()]
    return _joined(lines)


def _catalogue(*, stream_metrics: bool) -> Catalogue:
    return Catalogue(models=Names(1), fairness_ids=Names(1), stream_metrics=stream_metrics)


def _names(*, stream_metrics: bool) -> set[str]:
    return {view.name for family in _catalogue(stream_metrics=stream_metrics) for view in family.views}


def _families() -> Iterator[tuple[list[str], str, str]]:
    """Names with labels, type and text of what is counted while requests go by."""
    for family in _catalogue(stream_metrics=True):
        names = [_with_labels(view.name, view.labels) for view in family.views]
        yield names, family.kind, family.views[-1].documentation


def _computed() -> Iterator[tuple[list[str], str, str]]:
    """The same of what is worked out when the page is read: taken from a page with one endpoint."""
    fleet = Fleet()
    fleet.add(Endpoint("a", "127.0.0.1", 8000))
    recorder = Recorder(monotonic, stream_metrics=True, process=False)
    recorder.watch_fleet(fleet, monotonic, 2.0, "pool")
    recorder.watch_scrapes(lambda: [("a", "ok", 1)])
    recorder.watch_sources(lambda: [("metrics-data-source", 1, {"core-metrics-extractor": 1})])
    recorder.watch_kubernetes(lambda: [WatchStatus("Pod", 0.0, 1, 1, 1, {"gone": 1})])
    recorder.watch_leadership("lease", lambda: True)
    recorder.config_loaded("0123456789ab")
    page, _ = recorder.render()
    counted = _names(stream_metrics=True)
    for metric in text_string_to_metric_families(page.decode()):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        if name not in counted:
            yield [_with_labels(name, metric.samples[0].labels)], metric.type, metric.documentation


def _of_plugins() -> list[tuple[list[str], str, str]]:
    """The same of what in-tree plugins ask for when they are made."""
    noted = _Noted()
    log = logging.Logger("docs", logging.CRITICAL)  # beside the hierarchy: nobody reads that a type is deprecated
    handle = Handle("docs", Fleet(), monotonic, random.Random(0), log, noted)
    registry = Registry(BUILTIN)
    for cls in BUILTIN.values():
        if cls.type in _EXAMPLES or not any(field.required for field in msgspec.structs.fields(cls.Params)):
            sample(cls, registry, handle, parameters=_EXAMPLES.get(cls.type))
    return [([name], kind, text) for name, (kind, text) in noted.asked.items()]


class _Noted:
    """`epp.api.Metrics` that notes what it is asked for, and lets `NoMetrics` answer."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[str, str]] = {}  # name with labels: kind and text
        self._answer = NoMetrics()

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric:
        self._note("counter", name if name.endswith("_total") else f"{name}_total", documentation, labels)
        return self._answer.counter(name, documentation, labels)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric:
        self._note("gauge", name, documentation, labels)
        return self._answer.gauge(name, documentation, labels)

    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Metric:
        self._note("histogram", name, documentation, labels)
        return self._answer.histogram(name, documentation, labels, buckets=buckets)

    def _note(self, kind: str, name: str, text: str, labels: Sequence[str]) -> None:
        self.asked[_with_labels(name, labels)] = (kind, text if text.endswith(".") else f"{text}.")


def _with_labels(name: str, labels: Iterable[str]) -> str:
    listed = ", ".join(labels)
    return f"{name}{{{listed}}}" if listed else name


# --- limits --------------------------------------------------------------------------------------------------------------


def limits_table() -> str:
    """Every limit of the lean transport: its default, and the text below it in `epp/http2/limits.py`."""
    (body,) = [node.body for node in ast.parse(inspect.getsource(Limits)).body if isinstance(node, ast.ClassDef)]
    reasons = {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)
    }
    rows = [f"| `{f.name}` | {_limit(f.name, f.default)} | {reasons[f.name]} |" for f in fields(Limits)]
    return "| limit | default | what it bounds, and what happens beyond |\n|---|---:|---|\n" + "\n".join(rows) + "\n"


def _limit(name: str, default: Any) -> str:
    told = {"max_message_bytes": "`--grpc-max-recv-msg-size`", "max_receive_buffer_bytes": "4 messages"}
    if name in told:
        return told[name]
    return format_bytes(default) if name.endswith("_bytes") else f"{default:,.12g}{' s' if name.endswith('_s') else ''}"


# --- latency prediction --------------------------------------------------------------------------------------------------


def feature_table() -> str:
    """The features of a candidate."""
    lines = ["| feature | range | meaning |", "|---|---|---|"]
    lines += [_row(f"`{f.name}`", f"0 to {f.most:g}", f.text) for f in FEATURES]
    return _joined(lines)


def plugin_variable_table() -> str:
    """Environment variables and the parameters that they are defaults of."""
    rows = [_row(f"`{v.name}`", "<br>".join(f"`{p}` of `{t}`" for t, p in v.sets)) for v in VARIABLES]
    return _joined(["| variable | parameter of a plugin |", "|---|---|", *rows])


def variable_table(table: tuple[Variable, ...]) -> str:
    """Environment variables of one of the predictor's servers."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for variable in table:
        default = variable.default.replace(tempfile.gettempdir(), "TMP")
        lines.append(_row(f"`{variable.name}`", f"`{default}`" if default else "", variable.text))
    return _joined(lines)


# --- pages ---------------------------------------------------------------------------------------------------------------


# --- sizing --------------------------------------------------------------------------------------------------------------

_SIZED: Final[Mapping[str, str]] = {
    "1 KiB, closed loop of 16": "prompts of 1 KiB",
    "512 endpoints, 1 KiB, closed loop of 16": "prompts of 1 KiB, 512 endpoints",
    "220 KB prompts, closed loop of 4": "prompts of 220 KB",
    "64-token streams, bodies: all": "streamed answers of 64 tokens, with response bodies",
    "64-token streams, bodies: none": "streamed answers of 64 tokens, without response bodies",
    "400 KB prompt + 1,000 chunks": "prompts of 400 KB and streamed answers of 1,000 tokens, with response bodies",
}


def sizing_table() -> str:
    """What a core can do, worked out from the CPU per request on the page of benchmarks."""
    rows = [line for line in (ROOT / "docs" / "benchmarks.md").read_text().splitlines() if line.startswith("|")]
    header = next(cells for cells in map(_cells, rows) if "epp lean" in cells)
    figures = {cells[0]: cells[header.index("epp lean")] for cells in map(_cells, rows) if len(cells) == len(header)}
    lines = ["| load | CPU per request | requests a second that take one core | plan for |", "|---|---:|---:|---:|"]
    for scenario, load in _SIZED.items():
        figure = figures[f"{scenario}: CPU per request"]
        value, unit = figure.split()
        most = 1e6 / float(value) / {"µs": 1, "ms": 1000}[unit]
        lines.append(_row(load, figure, f"{_two_digits(most):,}", f"{_two_digits(most / 2):,}"))
    return "".join(f"{line}\n" for line in lines)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def _two_digits(value: float) -> int:
    """Rounded down: nobody is promised more than was measured."""
    step = 10 ** max(len(str(int(value))) - 2, 0)
    return int(value) // step * step


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "plugins": plugin_catalogue,
    "former-plugin-types": former_table,
    "flags-without-effect": flags_without_effect,
    "extension-points": extension_point_table,
    "metrics": metric_table,
    "sizing": sizing_table,
    "transport-limits": limits_table,
    "predictor-features": feature_table,
    "plugin-variables": plugin_variable_table,
    "predictor-train-variables": lambda: variable_table(TRAINING),
    "predictor-serve-variables": lambda: variable_table(PREDICTION),
    "chart-values": value_table,
    "chart-values-without-effect": without_effect_table,
}


def with_tables(text: str) -> str:
    """`text` with each of its tables made again. Raises KeyError for a name that no table has."""
    return _TABLE.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)


def pages() -> list[Path]:
    """Every page that people read, README first."""
    named = (ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"))
    return [*(p for p in named if p.exists()), *sorted((ROOT / "docs").rglob("*.md"))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    if arguments not in ([], ["--write"]):
        print("usage: python -m tests.support.docs [--write]", file=sys.stderr)
        return 2
    stale = {page: new for page in pages() if (new := with_tables(page.read_text())) != page.read_text()}
    for page, text in stale.items():
        if arguments:
            page.write_text(text)
        print(f"{page.relative_to(ROOT)}: {'written' if arguments else 'its tables are stale; use --write'}")
    return 0 if arguments or not stale else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
