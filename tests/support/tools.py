"""Programs that tests start and that are no Python packages: found, or the reason why not.

Looked for in this order: the environment variable, an archive in ../shared/tools (unpacked into the cache, once), PATH.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import pytest

CACHE: Final = Path.home() / ".cache" / "llm-epp" / "tools"
ARCHIVES: Final = Path(__file__).resolve().parents[3] / "shared" / "tools"


class Tool(NamedTuple):
    """A program. `variable` names the environment variable that holds its path, or the folder that it is in."""

    name: str
    variable: str
    archive: str
    """The beginning of the archive's name."""
    how_to_get: str
    """Completes "NAME not found: "."""


_ENVTEST = (
    "KUBEBUILDER_ASSETS",
    "envtest-",
    "set KUBEBUILDER_ASSETS to the folder that `setup-envtest use -p path` prints",
)
_CONTROLLERS = (
    "KUBE_CONTROLLERS",
    "kube-controllers-",
    "set KUBE_CONTROLLERS to a folder of the Kubernetes release that holds it",
)

ETCD: Final = Tool("etcd", *_ENVTEST)
KUBE_APISERVER: Final = Tool("kube-apiserver", *_ENVTEST)
KUBECTL: Final = Tool("kubectl", *_ENVTEST)
KUBE_CONTROLLER_MANAGER: Final = Tool("kube-controller-manager", *_CONTROLLERS)
KUBE_SCHEDULER: Final = Tool("kube-scheduler", *_CONTROLLERS)
HELM: Final = Tool("helm", "HELM", "helm-", "install helm 3, or set HELM to it")
GO_EPP: Final = Tool(
    "go-epp", "GO_EPP", "go-epp-", "build llm-d-router's EPP and set GO_EPP to it, or put go-epp on the PATH"
)
H2SPEC: Final = Tool(
    "h2spec", "H2SPEC", "h2spec-", "set H2SPEC to the binary of https://github.com/summerwind/h2spec (1.5.0)"
)
PROMETHEUS: Final = Tool("prometheus", "PROMETHEUS", "prometheus-", "apt-get install prometheus")
PROMTOOL: Final = Tool("promtool", "PROMTOOL", "prometheus-", "apt-get install prometheus")


class ToolMissingError(Exception):
    """A program is not here. The message says how to get it."""


def find(tool: Tool) -> Path:
    """Where it is. Raises ToolMissingError."""
    if named := os.environ.get(tool.variable):
        path = Path(named)
        return path / tool.name if path.is_dir() else path
    for archive in sorted(ARCHIVES.glob(f"{tool.archive}*.tar.xz"), reverse=True):
        return _unpacked(archive) / tool.name
    if found := shutil.which(tool.name):
        return Path(found)
    raise ToolMissingError(f"{tool.name} not found: {tool.how_to_get}")


def find_or_skip(tool: Tool) -> Path:
    """Where it is. Skips the test that asks, with how to get the program for a reason."""
    try:
        return find(tool)
    except ToolMissingError as missing:
        pytest.skip(str(missing))


def _unpacked(archive: Path) -> Path:
    """The folder with what is in it. Two processes may come here at once: the second one's copy is thrown away."""
    target = CACHE / archive.name.removesuffix(".tar.xz")
    if not target.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            whole = Path(temporary) / "whole"
            with tarfile.open(archive) as packed:
                packed.extractall(whole, filter="data")
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    return target
