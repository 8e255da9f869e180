"""Runs scenarios in their settings, columns in turn, and collects the figures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Final

from tests.bench.columns import PYTHON, Column
from tests.bench.flame import recorded
from tests.bench.load import LoadError
from tests.bench.results import Results
from tests.bench.scenarios import PARTS, ComponentScenario, IdleScenario, LoadScenario, Scenario
from tests.bench.stage import Sample, Stage, open_stage

_ONE_MEASUREMENT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Effort:
    """`scale` shortens every measurement; `most_rounds` caps the scenarios' own number."""

    scale: float = 1.0
    most_rounds: int | None = None

    def rounds(self, own: int) -> int:
        return own if self.most_rounds is None else min(own, self.most_rounds)


def run(
    scenarios: Sequence[Scenario],
    columns: Sequence[Column],
    results: Results,
    effort: Effort,
    tell: Callable[[str], None],
    *,
    flames: Path | None = None,
) -> None:
    """Fills `results`; `tell` hears what is going on.

    `flames`: folder for a flame graph of each Python column in each scenario with load; recording them costs CPU.
    What a column cannot do is noted in `results.missing`, and the others go on.
    """
    for column in columns:
        if reason := column.missing():
            results.missing[column.title] = reason
    present = [column for column in columns if column.title not in results.missing]
    for scenario in scenarios:
        if isinstance(scenario, ComponentScenario):
            tell(scenario.title)
            results.add(scenario.key, PARTS, dict(scenario.measure()))
    staged = [scenario for scenario in scenarios if not isinstance(scenario, ComponentScenario)]
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as workdir:
        asyncio.run(_Run(results, effort, tell, Path(workdir), flames).stages(staged, present))


class _Run:
    """One run's scenarios that need running servers."""

    def __init__(
        self, results: Results, effort: Effort, tell: Callable[[str], None], workdir: Path, flames: Path | None
    ) -> None:
        self._results = results
        self._effort = effort
        self._tell = tell
        self._workdir = workdir
        self._flames = flames

    async def stages(self, scenarios: Sequence[LoadScenario | IdleScenario], columns: Sequence[Column]) -> None:
        """All scenarios, those of one setting together."""
        ordered = sorted(scenarios, key=lambda scenario: scenario.setting.key)
        for setting, group in groupby(ordered, key=lambda scenario: scenario.setting):
            todo = list(group)
            needed = [column for column in columns if any(_is_measured(column, scenario) for scenario in todo)]
            if not needed:
                continue
            folder = self._workdir / setting.key
            os.mkdir(folder)
            self._tell(f"starting {len(needed)} columns, {setting.endpoints} endpoints")
            async with open_stage(setting, needed, folder) as stage:
                for column in needed:
                    if error := stage.failed.get(column.key):
                        self._results.missing[f"{column.title}, {setting.endpoints} endpoints"] = str(error)
                for scenario in todo:
                    started = monotonic()
                    await self._scenario(stage, scenario, needed)
                    self._tell(f"{scenario.title}: {monotonic() - started:.0f} s")

    async def _scenario(self, stage: Stage, scenario: LoadScenario | IdleScenario, columns: Sequence[Column]) -> None:
        for number in range(self._effort.rounds(scenario.rounds)):
            for column in columns:
                name = f"{scenario.title}, {column.title}"
                if (
                    column.key not in stage.running
                    or name in self._results.missing
                    or not _is_measured(column, scenario)
                ):
                    continue
                try:
                    async with asyncio.timeout(_ONE_MEASUREMENT_S):
                        sample = await self._measure(stage, scenario, column.key, f"{scenario.key}-{number}")
                except (LoadError, TimeoutError) as error:
                    self._results.missing[name] = str(error) or f"took longer than {_ONE_MEASUREMENT_S:g} s"
                else:
                    self._results.add(scenario.key, column.key, sample)

    async def _measure(self, stage: Stage, scenario: LoadScenario | IdleScenario, column: str, salt: str) -> Sample:
        scale = self._effort.scale
        if isinstance(scenario, IdleScenario):
            duration_s = scenario.duration_s * scale
            return await stage.idle(column, settle_s=scenario.settle_s, duration_s=duration_s)
        meter = stage.running[column].meter
        async with contextlib.AsyncExitStack() as recording:
            if self._flames is not None and meter is not None and column in PYTHON:
                path, title = self._flames / f"{scenario.key}-{column}.svg", f"{column}: {scenario.title}"
                await recording.enter_async_context(recorded(meter.pid, path, title))
            return await stage.under_load(column, scenario.load, bodies=scenario.bodies, scale=scale, salt=salt)


def _is_measured(column: Column, scenario: LoadScenario | IdleScenario) -> bool:
    if column.only and scenario.key not in column.only:
        return False
    if isinstance(scenario, IdleScenario):
        return column.is_epp
    # Envoy alone is there for latency to be compared with.
    return column.command is not None or scenario.shows_latency
