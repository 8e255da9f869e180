"""The control plane that other tests rest on is a real one: it refuses what it should, and survives what it should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kube_api, tools
from tests.support.control_plane import ADMIN_TOKEN, OFFICIAL_CRDS, ControlPlane, ControlPlaneError
from tests.support.kube_api import ApiError, Object
from tests.support.tools import Tool, ToolMissingError

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
"""
READER = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader}]
"""


def test_a_pod_is_what_its_status_was_set_to(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api

    api.create_pod("a", namespace=namespace, ip="127.0.5.1", labels={"app": "llama"})
    api.set_pod_status("a", namespace=namespace, ip="127.0.5.1", ready=False)

    [pod] = api.list("v1", "Pod", namespace=namespace, labelSelector="app=llama")
    assert pod["status"]["podIP"] == "127.0.5.1"
    assert pod["status"]["conditions"][0]["status"] == "False"
    api.delete("v1", "Pod", "a", namespace=namespace, grace_s=0)
    assert api.list("v1", "Pod", namespace=namespace) == []


def test_kubectl_applies_custom_resources_and_the_server_validates_them(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.install_crds(*OFFICIAL_CRDS)

    control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=POOL)
    with pytest.raises(ControlPlaneError, match="targetPorts"):
        control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=POOL.replace("8000", "80000"))

    pool = control_plane.api.get("inference.networking.k8s.io/v1", "InferencePool", "llama", namespace=namespace)
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"


def test_a_service_account_may_do_what_its_role_says_and_nothing_else(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.api.apply(READER, namespace=namespace)
    reader = control_plane.as_user(control_plane.api.service_account_token("reader", namespace=namespace))

    def may_list() -> bool:
        try:
            return reader.list("v1", "Pod", namespace=namespace) == []
        except ApiError:
            return False

    control_plane.until(may_list, "the reader may not read")  # a role is known a moment after it is there
    with pytest.raises(ApiError) as refused:
        reader.create_pod("a", namespace=namespace)

    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


def test_objects_outlive_a_killed_api_server(own_control_plane: ControlPlane) -> None:
    own_control_plane.create_namespace("kept")
    port = own_control_plane.port

    own_control_plane.kill_api_server()
    with pytest.raises(OSError, match="refused"):
        own_control_plane.api.list("v1", "Namespace")
    own_control_plane.start_api_server()

    assert own_control_plane.port == port
    assert own_control_plane.api.find("v1", "Namespace", "kept") is not None


def test_a_server_that_says_nothing_is_given_up_and_can_be_asked_again(
    own_control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_api, "_TIMEOUT_S", 1.0)  # the half minute that it waits is nothing to wait for
    api = own_control_plane.as_user(ADMIN_TOKEN)
    own_control_plane.until(api.healthy, "it does not answer within a second")

    own_control_plane.pause_api_server()
    with pytest.raises(OSError, match="timed out"):
        api.list("v1", "Namespace")
    own_control_plane.resume_api_server()

    own_control_plane.until(api.healthy, "it is not asked again")


def test_nothing_is_left_of_a_control_plane() -> None:
    try:
        with ControlPlane() as running:
            folder, pids = running.folder, running.pids()
    except ToolMissingError as missing:
        pytest.skip(str(missing))

    assert not folder.exists()
    assert not any(_alive(pid) for pid in pids)


def test_a_tool_that_is_nowhere_says_how_to_get_it() -> None:
    with pytest.raises(ToolMissingError, match="no-such-tool not found: build it"):
        tools.find(Tool("no-such-tool", "NO_SUCH_TOOL", "no-such-archive-", "build it"))


@pytest.fixture(scope="module")
def with_controllers() -> Iterator[ControlPlane]:
    try:
        prepared = ControlPlane(controllers=True)
    except ToolMissingError as missing:
        pytest.skip(str(missing))
    with prepared as running:
        yield running


@pytest.mark.kube
def test_controllers_make_pods_of_a_deployment_and_bind_them_to_a_node(with_controllers: ControlPlane) -> None:
    api = with_controllers.api
    template = {"metadata": {"labels": {"app": "a"}}, "spec": _pod("a")["spec"]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "template": template}
    api.create(_node("n1"))
    api.patch("v1", "Node", "n1", _node("n1"), subresource="status")

    api.create(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}, namespace="default"
    )

    with_controllers.until(
        lambda: [p["spec"].get("nodeName") for p in api.list("v1", "Pod", namespace="default")] == ["n1", "n1"],
        "the Pods are not bound",
    )
    [pod, _] = api.list("v1", "Pod", namespace="default")
    assert any(mount["mountPath"].endswith("/serviceaccount") for mount in pod["spec"]["containers"][0]["volumeMounts"])


@pytest.mark.kube
def test_helm_installs_and_leaves_nothing(with_controllers: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: tiny, version: 0.1.0}")
    (tmp_path / "templates" / "map.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\n"
    )
    try:
        with_controllers.helm("install", "one", str(tmp_path))
    except ToolMissingError as missing:
        pytest.skip(str(missing))
    installed = with_controllers.api.find("v1", "ConfigMap", "one", namespace="default")

    with_controllers.helm("uninstall", "one")

    assert installed is not None
    assert with_controllers.api.find("v1", "ConfigMap", "one", namespace="default") is None


def _pod(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "server", "image": "server"}]},
    }


def _node(name: str) -> Object:
    room = {"cpu": "100", "memory": "100Gi", "pods": "1000"}
    status = {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
