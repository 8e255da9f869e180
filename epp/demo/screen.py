"""What the demo shows: start-up steps, a line per pick, a bar while a load runs, the comparison. No decisions here.

On a terminal there are colours, spinners and bars; elsewhere the same lines, plain.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from epp.demo.client import Answer
from epp.demo.picks import Pick
from epp.demo.summary import Summary, change

_SERVER_STYLES: Final = ("cyan", "magenta", "yellow", "blue", "bright_red", "bright_cyan")
_HIT_SHARE: Final = 0.5
_NONE: Final = "–"
_LEGEND: Final = (
    "prefix hit: blocks of the prompt that the EPP expects in the server's cache;",
    "queue: requests waiting there; busy: on their way or running there, this one too;",
    "cached: tokens of the prompt that the server really had",
)
# Title, width; numbers stand to the right. 80 columns in all.
_COLUMNS: Final = (
    *(("request", -16), ("answer", -7), ("server", -6), ("prefix hit", 11), ("queue", 6), ("busy", 5)),
    *(("TTFT", 8), ("all", 8), ("cached", 11)),
)


class Step:
    """One part that starts. `done` says what came of it."""

    def __init__(self) -> None:
        self.result = ""

    def done(self, result: str) -> None:
        self.result = result


class Screen:
    """Writes to `console`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._styles: dict[str, str] = {}

    # --- starting ----------------------------------------------------------------------------------------------------

    def title(self, text: str) -> None:
        self._print(Text(text, style="bold"))

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Show that `what` is starting, then how it went and how long it took."""
        step, start_s = Step(), time.monotonic()
        with self._console.status(f"starting {what}"):
            yield step
        took = f"  {time.monotonic() - start_s:.1f} s"
        self._print(Text.assemble(("  ✓ ", "green"), step.result, (took, "dim")))

    def note(self, text: str) -> None:
        self._print(Text.assemble(("  ! ", "yellow"), text))

    def blank(self) -> None:
        self._print(Text(""))

    # --- running -----------------------------------------------------------------------------------------------------

    def name_servers(self, names: Mapping[str, str]) -> None:
        """Give each server its colour."""
        self._styles = {name: _SERVER_STYLES[i % len(_SERVER_STYLES)] for i, name in enumerate(names)}

    def pick_header(self) -> None:
        for line in _LEGEND:
            self._print(Text(line, style="dim"))
        self._print(_row([Text(title, style="bold") for title, _ in _COLUMNS]))

    def pick(self, answer: Answer, pick: Pick, server: str) -> None:
        """One request: what the EPP knew when it chose, and what came of it."""
        cells = [
            Text(answer.label),
            Text("stream" if answer.streamed else "whole"),
            Text(server or "none", style=self._styles.get(server, "red")),
            _hit(pick),
            Text(_number(pick.queue)),
            Text(_number(pick.in_flight)),
            Text(milliseconds(answer.ttft_ms)),
            Text(milliseconds(answer.total_ms)),
            Text(f"{answer.cached_tokens}/{answer.prompt_tokens}"),
        ]
        line = _row(cells)
        if answer.error:
            line.append(f"  {answer.error}", style="red")
        self._print(line)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar below everything printed meanwhile; call what this gives for each thing done."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)

    # --- the end -----------------------------------------------------------------------------------------------------

    def comparison(self, epp: Summary, other: Summary) -> None:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column()
        for title in ("EPP", "round robin", "difference"):
            table.add_column(title, justify="right")
        for title, value, base in (
            ("first token of a streamed answer, mean", epp.ttft_mean_ms, other.ttft_mean_ms),
            ("  median", epp.ttft_p50_ms, other.ttft_p50_ms),
            ("  90th percentile", epp.ttft_p90_ms, other.ttft_p90_ms),
            ("whole answer, not streamed, mean", epp.whole_mean_ms, other.whole_mean_ms),
        ):
            table.add_row(title, milliseconds(value), milliseconds(base), _difference(change(value, base)))
        table.add_row("prompt tokens from a cache", f"{epp.cached_share:.0%}", f"{other.cached_share:.0%}")
        for server in epp.per_server:
            counts = epp.per_server[server], other.per_server.get(server, 0)
            table.add_row(Text.assemble("requests to ", (server, self._styles.get(server, ""))), *map(str, counts))
        table.add_row("failed requests", str(epp.errors), str(other.errors))
        self._console.print(table)

    def sentence(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def commands(self, commands: Mapping[str, str]) -> None:
        """Shell lines, each under what it shows; never wrapped, so that they can be copied."""
        for purpose, command in commands.items():
            self._print(Text(f"# {purpose}", style="dim"))
            self._print(Text(command))

    def paragraph(self, text: str) -> None:
        self._console.print(Padding(Text(text), 0))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def milliseconds(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0f} ms"


def _number(value: int | None) -> str:
    return _NONE if value is None else str(value)


def _hit(pick: Pick) -> Text:
    """Blocks of the prompt that the chosen server was believed to hold."""
    if pick.prefix_blocks is None or not pick.prefix_total:
        return Text(_NONE)
    share = pick.prefix_blocks / pick.prefix_total
    style = "green" if share >= _HIT_SHARE else "dim"
    return Text(f"{pick.prefix_blocks}/{pick.prefix_total} {share:4.0%}", style=style)


def _difference(share: float | None) -> Text:
    if share is None:
        return Text("")
    # A proper minus sign is as wide as the plus.
    return Text(f"{share:+.0%}".replace("-", "−"), style="green" if share < 0 else "red")


def _row(cells: list[Text]) -> Text:
    line = Text()
    for cell, (_, width) in zip(cells, _COLUMNS, strict=True):
        room = " " * max(0, abs(width) - len(cell.plain))
        line.append_text(cell if width < 0 else Text(room))
        line.append_text(Text(room) if width < 0 else cell)
    return line
