"""A real API server takes what `deploy/manifests` holds, and commands on the pages about Kubernetes work."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.control_plane import ControlPlane
from tests.support.docs import pages
from tests.support.manifests import MANIFESTS, OVERLAYS, built
from tests.support.pages import Command, blocks, commands

FOREIGN = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.monitoring.coreos.com}}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {{kind: {kind}, plural: {plural}}}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


def is_for_a_cluster(command: Command) -> bool:
    return command.text.startswith("kubectl ")


def file_name(text: str) -> str:
    """The file that a block shows, `# PATH` in its first line; empty without one."""
    match = re.match(r"# ([\w./-]+\.yaml)\n", text)
    return match[1] if match else ""


def run(cluster: ControlPlane, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As the admin, with kubectl on the PATH."""
    kubectl = tools.find(tools.KUBECTL).parent
    environ = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "PATH": f"{kubectl}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=100)


@pytest.fixture
def cluster(own_control_plane: ControlPlane, tmp_path: Path) -> ControlPlane:
    """One with our definitions, and with stand-ins for kinds of the Prometheus operator that take anything."""
    files = []
    for kind in ("ServiceMonitor", "PrometheusRule"):
        files.append(tmp_path / f"{kind}.yaml")
        files[-1].write_text(FOREIGN.format(kind=kind, plural=f"{kind.lower()}s"))
    own_control_plane.install_crds(*files, *sorted((MANIFESTS.parent / "crds").glob("infer*.yaml")))
    return own_control_plane


def test_every_overlay_is_applied_and_comes_to_itself(cluster: ControlPlane) -> None:
    for overlay in OVERLAYS:
        folder = MANIFESTS / "overlays" / overlay
        for namespace in {
            found["metadata"]["namespace"] for found in built(folder) if "namespace" in found["metadata"]
        }:
            if cluster.api.find("v1", "Namespace", namespace) is None:
                cluster.create_namespace(namespace)

        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))

        # Nothing was dropped or written otherwise: a second time there is nothing to do. Exit status 1 would be a difference.
        assert cluster.kubectl("diff", "--server-side", "-k", str(folder)) == "", overlay


@pytest.mark.parametrize("page", [p for p in pages() if any(map(is_for_a_cluster, commands(p)))], ids=lambda p: p.name)
def test_commands_for_a_cluster_work(page: Path, cluster: ControlPlane, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "deploy").symlink_to(MANIFESTS.parent)
    for block in blocks(page, "yaml"):
        if name := file_name(block.text):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block.text)
    cluster.create_namespace("monitoring")  # of the Prometheus operator

    for command in filter(is_for_a_cluster, commands(page)):
        done = run(cluster, command.text, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
