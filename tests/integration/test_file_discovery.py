"""File discovery on a real file system: edits, renames, ConfigMap updates, mistakes, deletion."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epp.api import ConfigError, Endpoint
from epp.data.datastore import Datastore
from epp.discovery.file import FileDiscovery
from tests.support.files import replace
from tests.support.http_fakes import eventually

# Longer than any test waits: what is seen was reported by the watch, not found by looking now and then.
NEVER_MS = 600_000


def text(*names: str, port: int = 8000) -> str:
    lines = "".join(f"- {{name: {name}, address: 10.0.0.1, port: {port}}}\n" for name in names)
    return f"endpoints:\n{lines}" if names else "endpoints: []\n"


def write(path: Path, content: str) -> None:
    path.write_text(content)


def delete(path: Path) -> None:
    path.unlink()


class Case:
    def __init__(self, path: Path, *, poll_ms: int = NEVER_MS) -> None:
        self.path = path
        self.store = Datastore()
        self.discovery = FileDiscovery(path, self.store, poll_ms=poll_ms)

    def names(self) -> list[str]:
        return sorted(endpoint.name for endpoint in self.store.endpoints)

    def endpoint(self, name: str) -> Endpoint:
        endpoint = self.store.get(("default", name))
        assert endpoint is not None
        return endpoint


@contextlib.asynccontextmanager
async def watching(path: Path, *, poll_ms: int = NEVER_MS) -> AsyncIterator[Case]:
    case = Case(path, poll_ms=poll_ms)
    case.discovery.load()
    task = asyncio.create_task(case.discovery.watch())
    try:
        yield case
    finally:
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.yaml"
    path.write_text(text("a", "b"))
    return path


def test_loading_fills_the_datastore_and_marks_it_synced(path: Path) -> None:
    case = Case(path)

    changes = case.discovery.load()

    assert case.names() == ["a", "b"]
    assert changes.added == 2
    assert case.store.synced


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("endpoints: [{name: a, address: x, port: 1}, {name: b}]", r"endpoints\[0\].*endpoints\[1\]"),
        ("nonsense", "list `endpoints`"),
        ("endpoints: [", "not YAML"),
    ],
)
def test_a_bad_file_at_the_start_is_fatal(path: Path, content: str, reason: str) -> None:
    path.write_text(content)
    case = Case(path)

    with pytest.raises(ConfigError, match=reason) as caught:
        case.discovery.load()

    assert str(path) in str(caught.value)
    assert not case.store.synced


def test_a_missing_file_at_the_start_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Case(tmp_path / "none.yaml").discovery.load()


async def test_a_change_in_place_is_seen(path: Path) -> None:
    async with watching(path) as case:
        stays = case.endpoint("b")

        write(path, text("b", "c"))

        await eventually(lambda: case.names() == ["b", "c"])
        assert case.endpoint("b") is stays


async def test_a_rename_over_the_file_is_seen_again_and_again(path: Path) -> None:
    async with watching(path) as case:
        for name in ("c", "d", "e"):
            replace(path, text(name))

            await eventually(lambda n=name: case.names() == [n])  # type: ignore[misc]


async def test_a_configmap_update_is_seen(tmp_path: Path) -> None:
    def publish(version: str, content: str) -> None:
        """As the kubelet does: a directory per version, one link that is swapped, links to files through it."""
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.yaml").write_text(content)
        os.symlink(version, tmp_path / "..data_tmp")
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    publish("..1", text("a"))
    os.symlink("..data/endpoints.yaml", tmp_path / "endpoints.yaml")

    async with watching(tmp_path / "endpoints.yaml") as case:
        for version, name in (("..2", "b"), ("..3", "c")):
            publish(version, text(name))
            await eventually(lambda n=name: case.names() == [n])  # type: ignore[misc]


async def test_a_typo_never_deletes_an_endpoint(path: Path) -> None:
    async with watching(path) as case:
        a = case.endpoint("a")

        write(path, text("b", port=9000) + "- {name: a, address: 10.0.0.1, port: 80O0}\n")

        await eventually(lambda: case.endpoint("b").port == 9000)
        assert case.endpoint("a") is a
        assert case.discovery.problems == ("endpoints[1]: port: expected a number in 1..65535, found '80O0'",)


async def test_a_file_that_cannot_be_parsed_changes_nothing_until_it_can(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(path) as case:
        write(path, "endpoints: [")
        await eventually(lambda: case.discovery.problems)
        assert case.names() == ["a", "b"]
        assert "not YAML" in case.discovery.problems[0]
        assert str(path) in caplog.text

        write(path, text("c"))

        await eventually(lambda: case.names() == ["c"])
        assert case.discovery.problems == ()


async def test_deleting_the_file_changes_nothing_and_is_reported(path: Path) -> None:
    async with watching(path) as case:
        delete(path)
        await eventually(lambda: case.discovery.problems)
        assert "cannot be read" in case.discovery.problems[0]
        assert case.names() == ["a", "b"]

        write(path, text("a", "b"))

        await eventually(lambda: not case.discovery.problems)
        assert case.names() == ["a", "b"]


async def test_an_empty_list_empties_the_pool(path: Path) -> None:
    async with watching(path) as case:
        write(path, text())

        await eventually(lambda: case.names() == [])


async def test_other_files_in_the_directory_cause_no_reload(path: Path) -> None:
    async with watching(path) as case:
        replace(path, text("y"))
        await eventually(lambda: case.names() == ["y"])  # it is watched by now

        write(path.parent / "other.yaml", "x")
        replace(path, text("z"))
        await eventually(lambda: case.names() == ["z"])

        assert case.discovery.reloads == 2


async def test_a_change_that_no_watch_reports_is_found_by_looking(tmp_path: Path) -> None:
    """The link's target is in a directory that is not watched."""
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    target = tmp_path / "far" / "endpoints.yaml"
    write(target, text("a"))
    os.symlink(target, tmp_path / "near" / "endpoints.yaml")

    async with watching(tmp_path / "near" / "endpoints.yaml", poll_ms=100) as case:
        for name in ("b", "c"):  # the first one may be found as the watch begins
            write(target, text(name))

            await eventually(lambda n=name: case.names() == [n])  # type: ignore[misc]


async def test_a_directory_that_is_replaced_is_watched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "endpoints.yaml"
    write(path, text("a"))
    caplog.set_level(logging.WARNING)

    async with watching(path, poll_ms=100) as case:
        shutil.rmtree(directory)
        await eventually(lambda: case.discovery.problems)
        assert case.names() == ["a"]

        directory.mkdir()
        write(path, text("b"))
        await eventually(lambda: case.names() == ["b"])
        write(path, text("c"))
        await eventually(lambda: case.names() == ["c"])


async def test_cancelling_the_watch_leaves_no_task(path: Path) -> None:
    before = asyncio.all_tasks()

    async with watching(path) as case:
        write(path, text("c"))
        await eventually(lambda: case.names() == ["c"])

    assert asyncio.all_tasks() == before
