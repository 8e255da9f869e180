"""`epp new-plugin`: what it writes installs, passes its own test, and is found by its type; nothing is overwritten."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from epp.cli import main
from tests.support.configs import HEAD
from tests.support.distribution import install_by_hand

KINDS = ("scorer", "filter", "producer")


def python(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Another Python, which finds the modules in `path`."""
    env: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(path), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)


def check(site: Path, type_name: str) -> subprocess.CompletedProcess[str]:
    """`epp check` of a configuration with this type."""
    (site / "epp.yaml").write_text(f"{HEAD}plugins:\n- type: {type_name}\n- type: queue-scorer\n")
    return python("-m", "epp", "check", "epp.yaml", path=site, cwd=site)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_its_test_and_is_found_by_its_type(kind: str, tmp_path: Path) -> None:
    project, site = tmp_path / f"my-{kind}", tmp_path / "site"

    assert main(["new-plugin", f"my-{kind}", "--kind", kind, "--out", str(project)]) == 0
    install_by_hand(project, site)
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", path=project, cwd=project)
    checked = check(site, f"my-{kind}")

    assert tested.returncode == 0, tested.stdout
    assert "1 passed" in tested.stdout
    assert checked.returncode == 0, checked.stderr
    assert f"my-{kind}" in checked.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling, which builds the package, is not here"
)
def test_pip_installs_what_is_written(tmp_path: Path) -> None:
    project, site = tmp_path / "piped-scorer", tmp_path / "site"
    assert main(["new-plugin", "piped-scorer", "--out", str(project)]) == 0
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")

    installed = python(
        "-m", "pip", "install", *offline, "--target", str(site), str(project), path=tmp_path, cwd=tmp_path
    )

    assert installed.returncode == 0, installed.stderr
    assert not (site / "test_piped_scorer.py").exists()
    assert check(site, "piped-scorer").returncode == 0


def test_the_folder_has_the_plugins_name_and_the_readme_five_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["new-plugin", "my-scorer"]) == 0

    names = {file.name for file in (tmp_path / "my-scorer").iterdir()}
    assert names == {"pyproject.toml", "README.md", "my_scorer.py", "test_my_scorer.py"}
    assert len((tmp_path / "my-scorer" / "README.md").read_text().splitlines()) == 5


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("mine")

    status = main(["new-plugin", "my-scorer", "--out", str(tmp_path)])

    assert status == 2
    assert f"{tmp_path} has README.md already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("queue-scorer", "there already"),
        ("tokenizer", "there already"),
        ("MyScorer", "small letters, digits and hyphens"),
        ("../scorer", "small letters, digits and hyphens"),
        ("random", "Python's own"),
        ("class", "Python's own"),
    ],
)
def test_names_that_cannot_be_used_are_refused(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["new-plugin", name]) == 2

    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    assert main(["new-plugin", "my-scorer", "--out", str(tmp_path / "file")]) == 2

    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["file/inner", "a" * 300])
def test_a_folder_that_cannot_be_made_is_status_1(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main(["new-plugin", "my-scorer", "--out", str(tmp_path / folder)]) == 1

    assert "cannot write" in capsys.readouterr().err
