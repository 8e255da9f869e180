"""A directory of objectives and rewrites on a real file system."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epp.api import ConfigError
from epp.data.datastore import Datastore
from epp.discovery.object_files import Pool
from epp.discovery.objects import ObjectDiscovery
from tests.support.files import replace
from tests.support.http_fakes import eventually

# Longer than any test waits: what is seen was reported by the watch, not found by looking now and then.
NEVER_MS = 600_000


def objective(name: str, priority: object = 1, pool: str = "pool") -> str:
    return (
        "---\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\n"
        f"metadata: {{name: {name}}}\nspec: {{priority: {priority}, poolRef: {{name: {pool}}}}}\n"
    )


def rewrite(name: str, model: str, target: str) -> str:
    return (
        f"---\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {{name: {name}}}\n"
        f"spec: {{rules: [{{matches: [{{model: {{value: {model}}}}}], targets: [{{modelRewrite: {target}}}]}}]}}\n"
    )


def delete(path: Path) -> None:
    path.unlink()


class Case:
    def __init__(self, folder: Path, pool: str = "", *, poll_ms: int = NEVER_MS) -> None:
        self.folder = folder
        self.store = Datastore(rng=random.Random(0))
        self.discovery = ObjectDiscovery(folder, self.store, Pool(pool), poll_ms=poll_ms)

    def priorities(self, *names: str) -> list[int]:
        return [self.store.priority_of(name) for name in names]


@contextlib.asynccontextmanager
async def watching(folder: Path, *, poll_ms: int = NEVER_MS) -> AsyncIterator[Case]:
    case = Case(folder, poll_ms=poll_ms)
    case.discovery.load()
    task = asyncio.create_task(case.discovery.watch())
    try:
        yield case
    finally:
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def make_folder(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "a.yaml").write_text(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "objects"
    make_folder(folder, objective("a", 1) + objective("b", -2))
    (folder / "rewrites.yml").write_text(rewrite("r", "asked", "served"))
    return folder


def test_all_files_of_the_directory_are_read(folder: Path) -> None:
    (folder / "notes.txt").write_text("nonsense: [")
    (folder / ".hidden.yaml").write_text("nonsense: [")
    case = Case(folder)

    case.discovery.load()

    assert case.priorities("a", "b", "unknown") == [1, -2, 0]
    assert case.store.rewrite("asked") == ("r", "served")
    assert case.discovery.problems == ()


def test_objects_of_other_pools_are_left_out(folder: Path) -> None:
    (folder / "b.yaml").write_text(objective("c", 5, pool="other"))
    case = Case(folder, "other")

    case.discovery.load()

    assert case.priorities("a", "b", "c") == [0, 0, 5]


def test_a_mistake_at_the_start_is_fatal_and_all_are_listed(folder: Path) -> None:
    (folder / "a.yaml").write_text(objective("a", "x"))
    (folder / "b.yaml").write_text("a: [")

    with pytest.raises(ConfigError) as refused:
        Case(folder).discovery.load()

    assert f'{folder}/a.yaml:5:18: spec.priority: expected a whole number, got the text "x"' in str(refused.value)
    assert f"{folder}/b.yaml:2:1: not valid YAML" in str(refused.value)


def test_a_missing_directory_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Case(tmp_path / "none").discovery.load()


async def test_edits_new_files_and_deletions_are_seen(folder: Path) -> None:
    async with watching(folder) as case:
        (folder / "a.yaml").write_text(objective("b", 7))
        await eventually(lambda: case.priorities("a", "b") == [0, 7])

        (folder / "new.json").write_text(
            '{"apiVersion": "llm-d.ai/v1alpha2", "kind": "InferenceObjective", "metadata": {"name": "c"}, '
            '"spec": {"priority": 9}}'
        )
        await eventually(lambda: case.priorities("c") == [9])

        delete(folder / "rewrites.yml")
        await eventually(lambda: case.store.rewrite("asked") is None)
        assert case.priorities("b", "c") == [7, 9]


async def test_a_mistake_keeps_the_last_good_state_and_the_rest_goes_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(folder) as case:
        replace(folder / "a.yaml", objective("a", "high") + objective("b", 5))
        await eventually(lambda: case.priorities("b") == [5])
        kept = case.priorities("a")
        problems = case.discovery.problems

        (folder / "a.yaml").write_text(objective("a", 3) + objective("b", 5))
        await eventually(lambda: case.priorities("a") == [3])

        assert kept == [1]
        assert problems == (f'{folder}/a.yaml:5:18: spec.priority: expected a whole number, got the text "high"',)
        assert problems[0] in caplog.text
        assert case.discovery.problems == ()


async def test_a_file_that_cannot_be_parsed_keeps_all_of_its_objects(folder: Path) -> None:
    async with watching(folder) as case:
        replace(folder / "a.yaml", "a: [")

        await eventually(lambda: case.discovery.problems)
        assert case.priorities("a", "b") == [1, -2]


async def test_a_configmap_update_is_seen(tmp_path: Path) -> None:
    def publish(version: str, content: str) -> None:
        """As the kubelet does: a directory per version, one link that is swapped, links to files through it."""
        (tmp_path / version).mkdir()
        (tmp_path / version / "o.yaml").write_text(content)
        os.symlink(version, tmp_path / "..data_tmp")
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    publish("..1", objective("a", 1))
    os.symlink("..data/o.yaml", tmp_path / "o.yaml")
    async with watching(tmp_path) as case:
        for version, priority in (("..2", 2), ("..3", 3)):
            publish(version, objective("a", priority))
            await eventually(lambda p=priority: case.priorities("a") == [p])  # type: ignore[misc]


async def test_a_directory_that_goes_is_reported_and_followed_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with watching(folder, poll_ms=100) as case:
        shutil.rmtree(folder)
        await eventually(lambda: case.discovery.problems)

        make_folder(folder, objective("a", 4))

        await eventually(lambda: case.priorities("a", "b") == [4, 0])
        await eventually(lambda: case.discovery.problems == ())
