"""What `deploy/manifests` comes to: the objects of a kustomization, as kubectl builds them. Tests only."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support import tools

Object = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
MANIFESTS: Final = ROOT / "deploy" / "manifests"
OVERLAYS: Final = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))


def built(folder: Path) -> list[Object]:
    """Its objects. Raises ToolMissingError without kubectl, and AssertionError with what kubectl complains about."""
    return [found for found in yaml.safe_load_all(_built(folder)) if found]


@cache
def _built(folder: Path) -> str:
    """The same kustomization is read by many tests."""
    done = subprocess.run(
        [str(tools.find(tools.KUBECTL)), "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]
