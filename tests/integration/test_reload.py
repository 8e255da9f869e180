"""The configuration file of a running service changes: edits, renames, ConfigMap updates, mistakes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from epp.app import Service
from epp.config import load_file
from tests.support.configs import HEAD
from tests.support.files import replace
from tests.support.http_fakes import eventually
from tests.support.loopback import loopback_options


def config(weight: int, more: str = "") -> str:
    profile = f"schedulingProfiles: [{{name: default, plugins: [{{pluginRef: queue-scorer, weight: {weight}}}]}}]\n"
    return f"{HEAD}plugins:\n- {{type: queue-scorer}}\n- {{type: prefix-cache-scorer}}\n{more}{profile}"


def write(path: Path, content: str) -> None:
    """In place, as some editors do."""
    path.write_text(content)


def delete(path: Path) -> None:
    path.unlink()


class Case:
    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def config_hash(self) -> str:
        return self.service.director.pipeline.config_hash

    async def page(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.service.metrics_port}") as client,
            client.get(path) as response,
        ):
            return response.status, await response.text()


@contextlib.asynccontextmanager
async def running(path: Path, *, config_reload: bool = True) -> AsyncIterator[Case]:
    options = loopback_options(
        config_file=str(path),
        config_reload=config_reload,
        endpoints=("127.0.0.1:1",),
    )
    service = Service(options, load_file(path))
    try:
        await service.start()
        yield Case(service)
    finally:
        await service.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "epp.yaml"
    path.write_text(config(1))
    return path


async def test_warnings_about_the_configuration_are_told_at_the_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who does not run epp check learns of a deprecated parameter as well."""
    write(path, config(1, "- {type: approx-prefix-cache-producer, parameters: {blockSize: 64}}\n"))

    async with running(path):
        told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]

    assert f"{path}:6:53: warning: plugins[2].parameters.blockSize: is deprecated: use blockSizeTokens" in told


async def test_an_edit_and_a_rename_are_put_in_force(path: Path) -> None:
    async with running(path) as case:
        seen = [case.config_hash]
        for weight, change in ((2, partial(write, path)), (3, partial(replace, path)), (4, partial(write, path))):
            change(config(weight))
            await eventually(lambda: case.config_hash != seen[-1])
            seen.append(case.config_hash)

        _, metrics = await case.page("/metrics")
        assert len(set(seen)) == 4
        assert f'llm_epp_config_info{{hash="{seen[-1]}"}} 1' in metrics
        assert metrics.count("llm_epp_config_info{") == 1
        assert 'llm_epp_config_reloads_total{result="applied"} 3' in metrics
        assert "× 4" in (await case.page("/debug/config"))[1]


async def test_a_configmap_update_is_put_in_force(tmp_path: Path) -> None:
    def publish(version: str, content: str) -> None:
        """As the kubelet does: a directory per version, one link that is swapped, links to files through it."""
        (tmp_path / version).mkdir()
        (tmp_path / version / "epp.yaml").write_text(content)
        os.symlink(version, tmp_path / "..data_tmp")
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    publish("..1", config(1))
    os.symlink("..data/epp.yaml", tmp_path / "epp.yaml")
    async with running(tmp_path / "epp.yaml") as case:
        for version, weight in (("..2", 2), ("..3", 3)):
            before = case.config_hash
            publish(version, config(weight))
            await eventually(lambda b=before: case.config_hash != b)  # type: ignore[misc]


async def test_a_bad_file_leaves_the_service_ready_and_is_on_the_page_until_it_is_mended(path: Path) -> None:
    async with running(path) as case:
        before = case.config_hash

        replace(path, config(1, "- {type: no-such-type}\n"))
        await eventually(case.service.notes)
        status, text = await case.page("/readyz")
        write(path, config(1))
        await eventually(lambda: not case.service.notes())

        assert status == 200
        assert text.splitlines() == [
            "ok",
            f'configuration: {path}:6:10: plugins[2].type: unknown plugin type "no-such-type"',
            f"configuration: in force is the one with hash {before}",
        ]
        assert await case.page("/readyz") == (200, "ok\n")
        assert case.config_hash == before


async def test_a_file_that_is_gone_or_empty_changes_nothing(path: Path) -> None:
    async with running(path) as case:
        before = case.config_hash

        delete(path)
        await eventually(case.service.notes)
        gone = case.service.notes()[0]
        write(path, "")
        await eventually(lambda: case.service.notes() and "empty" in case.service.notes()[0])
        write(path, config(1))

        await eventually(lambda: not case.service.notes())
        assert gone == f"configuration: {path}: cannot read the file: No such file or directory"
        assert case.config_hash == before


async def test_a_pipe_in_the_files_place_is_told_and_not_waited_for(path: Path) -> None:
    """The thread that opens one may wait for ever, and the end of the process for that thread."""
    async with running(path) as case:
        delete(path)
        os.mkfifo(path)
        await eventually(lambda: any("it is not a regular file" in note for note in case.service.notes()))
        delete(path)
        write(path, config(1))
        await eventually(lambda: not case.service.notes())


async def test_a_pipe_is_read_once() -> None:
    """`--config-file <(helm template ...)`: there is nothing to follow."""
    reading, writing = os.pipe()
    os.write(writing, config(1).encode())
    os.close(writing)

    async with running(Path(f"/dev/fd/{reading}")):
        os.close(reading)
        assert "configuration reload" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_without_the_flag_the_file_is_not_followed(path: Path) -> None:
    async with running(path, config_reload=False):
        assert "configuration reload" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_the_file_that_the_service_began_with_is_no_reload(path: Path) -> None:
    async with running(path) as case:
        assert "configuration reload" in {task.get_name() for task in asyncio.all_tasks()}
        before = case.config_hash
        replace(path, config(2))
        await eventually(lambda: case.config_hash != before)

        _, metrics = await case.page("/metrics")
        assert 'llm_epp_config_reloads_total{result="applied"} 1' in metrics
        assert 'llm_epp_config_reloads_total{result="unchanged"} 0' in metrics
