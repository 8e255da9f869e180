"""The Helm charts in tests: rendered by helm, and looked at as objects. Blocking."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.support import tools

Object = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
CHARTS: Final = ROOT / "deploy" / "charts"
FIXTURES: Final = ROOT / "tests" / "fixtures" / "charts"
RELEASE: Final = "pool"
NAMESPACE: Final = "models"
_DEADLINE_S: Final = 100.0
_SYMBOLIC_LINK: Final = "found symbolic link in path"  # the charts share one library; helm says so each time


class ChartError(Exception):
    """helm refused. The message is what it wrote."""


class Case(NamedTuple):
    """A chart with values. `files` are names of fixtures, `values` goes over them."""

    chart: str
    files: tuple[str, ...] = ()
    values: Object = {}  # noqa: RUF012  (never changed)

    def arguments(self, folder: Path) -> list[str]:
        """For helm, after the release's name. Writes `values` into `folder`."""
        own = folder / "values.yaml"
        own.write_text(yaml.safe_dump(self.values))
        files = [FIXTURES / f"{name}.yaml" for name in self.files]
        return [str(CHARTS / self.chart), *(f"--values={file}" for file in (*files, own))]


class Rendered(NamedTuple):
    """What a chart makes of its values."""

    objects: Sequence[Object]

    @property
    def names(self) -> list[str]:
        return sorted(f"{o['kind']}/{o['metadata']['name']}" for o in self.objects)

    def one(self, kind: str, name: str = "") -> Object:
        """The object of that kind; by its name where there are several. Raises ValueError when it is not exactly one."""
        (found,) = [o for o in self.objects if o["kind"] == kind and name in ("", o["metadata"]["name"])]
        return found

    @property
    def pod(self) -> Object:
        spec: Object = self.one("Deployment", f"{RELEASE}-epp")["spec"]["template"]["spec"]
        return spec

    def container(self, name: str = "epp") -> Object:
        (found,) = [c for c in self.pod["containers"] if c["name"] == name]
        return found

    @property
    def service_ports(self) -> dict[str, int]:
        return {port["name"]: port["port"] for port in self.one("Service", f"{RELEASE}-epp")["spec"]["ports"]}

    @property
    def environment(self) -> dict[str, str]:
        """Of the EPP; empty text for what comes from elsewhere."""
        return {v["name"]: v.get("value", "") for v in self.container()["env"]}

    @property
    def files(self) -> dict[str, str]:
        """Of the configuration's ConfigMap."""
        data: dict[str, str] = self.one("ConfigMap", f"{RELEASE}-epp")["data"]
        return data


def render(case: Case) -> Rendered:
    """Raises ChartError, and ToolMissingError where there is no helm."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = case.arguments(Path(folder))
        text = run_helm("template", RELEASE, *arguments, f"--namespace={NAMESPACE}", "--kube-version=1.34.0")
    return Rendered([o for o in yaml.safe_load_all(text) if o])


def run_helm(*arguments: str) -> str:
    """What it prints, without any cluster. Raises ChartError, and ToolMissingError."""
    program = tools.find(tools.HELM)
    with tempfile.TemporaryDirectory() as home:
        own = {f"HELM_{kind}_HOME": f"{home}/{kind}" for kind in ("CACHE", "CONFIG", "DATA")}
        environment = os.environ | own | {"KUBECONFIG": f"{home}/none"}
        done = subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, env=environment, timeout=_DEADLINE_S
        )
    if done.returncode:
        said = (done.stderr + done.stdout).splitlines()
        raise ChartError("\n".join(line for line in said if _SYMBOLIC_LINK not in line))
    return done.stdout
