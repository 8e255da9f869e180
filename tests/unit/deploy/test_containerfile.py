"""What the image is made of is pinned, whole, and what the project asks for."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.prove_container import CONTAINERFILE, Step, steps
from tests.support.manifests import ROOT

EXTRAS = ("predictor", "cel", "tokenizers", "otel")


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return loaded


def pinned(name: str) -> dict[str, tuple[str, int]]:
    """Package: version and how many files of it are known by hash."""
    found = {}
    for entry in re.split(r"\n(?=\w)", (ROOT / "deploy" / name).read_text()):
        package, version = re.findall(r"^([\w.-]+)==([\w.+-]+)", entry)[0]
        found[canonicalize_name(package)] = version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
    return found


def wanted() -> list[Requirement]:
    described = project()["project"]
    texts = [*described["dependencies"], *(t for extra in EXTRAS for t in described["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_every_requirement_is_pinned_to_a_version_that_will_do(requirement: Requirement) -> None:
    version, _ = pinned("requirements.lock")[canonicalize_name(requirement.name)]

    assert requirement.specifier.contains(version), "scripts/lock.sh makes the list anew"


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_every_package_is_known_by_the_hashes_of_its_files_wherever_they_come_from(name: str) -> None:
    assert all(hashes for _, hashes in pinned(name).values())
    assert "://" not in (ROOT / "deploy" / name).read_text()


def test_what_the_build_needs_is_pinned() -> None:
    assert {Requirement(text).name for text in project()["build-system"]["requires"]} <= set(pinned("build.lock"))


def test_packages_are_installed_by_hash_only_and_nothing_runs_as_root() -> None:
    instructions = steps(CONTAINERFILE.read_text())
    installs = [step.text for step in instructions if " install " in step.text]

    assert len(installs) == 3
    assert all("--require-hashes" in text or "--no-index" in text for text in installs)
    assert Step("USER", "65532:65532") in instructions
    assert Step("ENTRYPOINT", '["epp", "run"]') in instructions


def test_versions_in_the_containerfile_are_the_projects() -> None:
    version = project()["project"]["version"]
    text = CONTAINERFILE.read_text()

    assert f"/wheel/llm_epp-{version}-py3-none-any.whl" in text
    assert set(re.findall(r"llm-epp:([\d.]+)", text)) == {version}


def test_continued_lines_are_one_step() -> None:
    assert steps("# remark\nRUN a \\\n  b\n\nUSER 1:1\n") == [Step("RUN", "a    b"), Step("USER", "1:1")]
