"""A real API server takes what `deploy/manifests` holds, and commands on the pages about Kubernetes work."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import tools
from tests.support.control_plane import ControlPlane
from tests.support.docs import pages
from tests.support.kube_api import ApiError, Object
from tests.support.manifests import MANIFESTS, OVERLAYS, built, of_kind
from tests.support.pages import Command, blocks, commands

# Kinds of others, whose definitions are not here: stand-ins that take anything.
FOREIGN = {
    "monitoring.coreos.com/v1": ("ServiceMonitor", "PrometheusRule"),
    "gateway.networking.k8s.io/v1": ("Gateway", "HTTPRoute"),
    "networking.istio.io/v1": ("DestinationRule",),
    "networking.gke.io/v1": ("HealthCheckPolicy", "GCPBackendPolicy"),
    "gateway.envoyproxy.io/v1alpha1": ("EnvoyExtensionPolicy", "BackendTrafficPolicy", "Backend"),
}
APPROVAL = {"api-approved.kubernetes.io": "unapproved, a stand-in"}
GATEWAYS = MANIFESTS.parent / "gateways"
WITH_PODS = (
    *(MANIFESTS / "overlays" / name for name in OVERLAYS if name != "monitoring"),
    *sorted(path.parent for path in GATEWAYS.glob("plain-envoy/*/envoy.yaml")),
)
APPLIED = (
    *WITH_PODS,
    MANIFESTS / "overlays" / "monitoring",
    *(GATEWAYS / name for name in ("istio", "kgateway", "gke", "envoy-gateway")),
)


def stand_in(group: str, version: str, kind: str) -> Object:
    plural = (
        f"{kind.lower().removesuffix('y')}ies" if kind.endswith("y") and not kind.endswith("ay") else f"{kind.lower()}s"
    )
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": APPROVAL},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


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


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with our definitions, stand-ins for kinds of others, and the namespaces that are meant."""
    try:
        plane = ControlPlane()
    except tools.ToolMissingError as missing:
        pytest.skip(str(missing))
    path = tmp_path_factory.mktemp("foreign") / "foreign.yaml"
    foreign = [stand_in(*version.split("/"), kind) for version, kinds in FOREIGN.items() for kind in kinds]
    path.write_text(yaml.safe_dump_all(foreign))
    with plane:
        plane.install_crds(path, *sorted((MANIFESTS.parent / "crds").glob("infer*.yaml")))
        for name in ("inference", "monitoring"):
            plane.create_namespace(name)
        yield plane


@pytest.fixture
def cluster(equipped: ControlPlane) -> Iterator[ControlPlane]:
    """The same, with nothing in its namespaces afterwards."""
    yield equipped
    kinds = ["deployments,services,configmaps,networkpolicies,poddisruptionbudgets,roles,rolebindings,inferencepools"]
    kinds += [f"{kind}.{version.partition('/')[0]}" for version, found in FOREIGN.items() for kind in found]
    for name in ("inference", "monitoring"):
        equipped.kubectl("delete", ",".join(kinds), "--all", "--namespace", name)


def test_every_folder_is_applied_and_comes_to_itself(cluster: ControlPlane) -> None:
    for folder in APPLIED:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))

        # Nothing was dropped or written otherwise: a second time there is nothing to do. Exit status 1 would be a difference.
        assert cluster.kubectl("diff", "--server-side", "-k", str(folder)) == "", folder


@pytest.mark.parametrize("folder", WITH_PODS, ids=lambda f: f.name)
def test_pods_keep_to_the_restricted_standard(folder: Path, control_plane: ControlPlane, namespace: str) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    control_plane.api.patch("v1", "Namespace", namespace, labels)
    [deployment] = of_kind(built(folder), "Deployment")

    # Without one of its settings the Pod is refused once the standard is in force, which the server learns from a watch.
    lax = copy.deepcopy(deployment)
    del lax["spec"]["template"]["spec"]["containers"][-1]["securityContext"]["capabilities"]
    control_plane.until(lambda: violates(control_plane, lax, namespace), "the standard is not in force")

    accepted = create_pod(control_plane, deployment, namespace)
    for container in accepted["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]


def violates(plane: ControlPlane, deployment: Object, namespace: str) -> bool:
    try:
        create_pod(plane, deployment, namespace)
    except ApiError as refused:
        return "violates PodSecurity" in str(refused)
    return False


def create_pod(plane: ControlPlane, deployment: Object, namespace: str) -> Object:
    """As the Deployment's controller would, but nothing is kept."""
    template = deployment["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "epp"},
        "spec": template["spec"],
    }
    return plane.api.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod, query={"dryRun": "All"})


@pytest.mark.kube
def test_a_leader_may_be_moved_but_nobody_while_there_is_none(tmp_path: Path) -> None:
    try:
        plane = ControlPlane(controllers=True)
    except tools.ToolMissingError as missing:
        pytest.skip(str(missing))
    with plane:
        namespace = plane.create_namespace("inference")
        [budget] = of_kind(built(MANIFESTS / "overlays" / "high-availability"), "PodDisruptionBudget")
        plane.api.apply(budget)
        labels = budget["spec"]["selector"]["matchLabels"]
        for name, ready in (("leader", True), ("follower", False)):
            plane.api.create_pod(name, namespace=namespace, ip="127.0.0.2", ready=ready, labels=labels)

        def allows(count: int) -> bool:
            status = plane.api.get("policy/v1", "PodDisruptionBudget", "epp", namespace=namespace)["status"]
            return bool(status["disruptionsAllowed"] == count and status["expectedPods"] == 2)

        plane.until(lambda: allows(1), "the budget does not let one go")
        plane.api.set_pod_status("leader", namespace=namespace, ip="127.0.0.2", ready=False)
        plane.until(lambda: allows(0), "the budget lets one go though none is ready")
        with pytest.raises(ApiError, match="disruption budget"):
            evict(plane, "follower", namespace)

        plane.api.set_pod_status("follower", namespace=namespace, ip="127.0.0.2")
        plane.until(lambda: allows(1), "the budget does not let one go")
        evict(plane, "leader", namespace)


def evict(plane: ControlPlane, pod: str, namespace: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    plane.api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [p for p in pages() if any(map(is_for_a_cluster, commands(p)))], ids=lambda p: p.name)
def test_commands_for_a_cluster_work(page: Path, cluster: ControlPlane, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "deploy").symlink_to(MANIFESTS.parent)
    for block in blocks(page, "yaml"):
        if name := file_name(block.text):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block.text)

    for command in filter(is_for_a_cluster, commands(page)):
        done = run(cluster, command.text, folder)
        if "AlreadyExists" in done.stderr and command.text.startswith("kubectl create namespace "):
            continue  # of the page before
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
