"""The test node: what a Pod is told, may do and goes through is what a kubelet would give it."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, NoClusterError
from tests.support.kube_api import Object
from tests.support.tools import ToolMissingError

pytestmark = pytest.mark.kube

TELL = """
import json, os, pathlib, sys, time
account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
def writable(path):
    try:
        (pathlib.Path(path) / "probe").write_text("x")
    except OSError:
        return False
    return True
print(json.dumps({
    "arguments": sys.argv[1:], "name": os.environ["NAME"], "address": os.environ["ADDRESS"],
    "uid": os.getuid(), "groups": os.getgroups(), "pid": os.getpid(), "host": os.uname().nodename,
    "namespace": (account / "namespace").read_text(), "token": (account / "token").read_text().count("."),
    "ca": (account / "ca.crt").read_text().startswith("-----BEGIN CERT"),
    "config": pathlib.Path("/config/epp.yaml").read_text(),
    "writable": [path for path in ("/", "/tmp", "/config", "/data") if writable(path)],
    "capabilities": [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapBnd")][0],
}), flush=True)
time.sleep(1e6)
"""
SAY_BYE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(1e6)
"""
LOOK_UP = """
import json, socket, sys, time
def addresses(name):
    try:
        return socket.gethostbyname_ex(name)[2]
    except OSError:
        return []
print(json.dumps({name: addresses(name) for name in sys.argv[1:]}), flush=True)
time.sleep(1e6)
"""
NUMBERS = count(1)
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {epp.yaml: 'a: 1'}\n"


def pod(name: str, *args: str, **more: Any) -> Object:
    container = {"name": "main", "image": "registry.example/python:3", "args": list(args)} | more.pop("container", {})
    spec = {"containers": [container], "terminationGracePeriodSeconds": 60} | more
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def said(cluster: Cluster, found: Object) -> dict[str, Any]:
    cluster.until(lambda: cluster.log(found).endswith("}\n"), "it said nothing")
    told: dict[str, Any] = json.loads(cluster.log(found))
    return told


def start(cluster: Cluster, namespace: str, wanted: Object) -> Object:
    created = cluster.api.create(wanted, namespace=namespace)
    cluster.until(
        lambda: (
            cluster.api.get("v1", "Pod", created["metadata"]["name"], namespace=namespace)["status"]["phase"]
            == "Running"
        ),
        "it does not run",
    )
    return cluster.api.get("v1", "Pod", created["metadata"]["name"], namespace=namespace)


def restarts(cluster: Cluster, namespace: str, name: str) -> int:
    status = cluster.api.get("v1", "Pod", name, namespace=namespace)["status"]
    return int(status["containerStatuses"][0]["restartCount"])


def test_a_program_gets_what_its_pod_says_and_no_more(cluster: Cluster, cluster_namespace: str) -> None:
    cluster.api.apply(CONFIG, namespace=cluster_namespace)
    container = {
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    wanted = pod(
        "teller",
        *("-c", TELL, "--of=$(NAME)"),
        container=container,
        securityContext={"runAsNonRoot": True, "runAsUser": 1234, "fsGroup": 77},
        volumes=[{"name": "config", "configMap": {"name": "settings"}}, {"name": "data", "emptyDir": {}}],
    )

    found = start(cluster, cluster_namespace, wanted)

    assert said(cluster, found) == {
        "arguments": ["--of=teller"],
        "name": "teller",
        "address": found["status"]["podIP"],
        "uid": 1234,
        "groups": [77],
        "pid": 1,
        "host": "teller",
        "namespace": cluster_namespace,
        "token": 2,
        "ca": True,
        "config": "a: 1",
        "writable": ["/data"],
        "capabilities": "0000000000000000",
    }


def test_a_pod_has_time_to_stop_and_is_gone_when_it_has(cluster: Cluster, cluster_namespace: str) -> None:
    found = start(cluster, cluster_namespace, pod("a", "-c", SAY_BYE))
    cluster.until(lambda: cluster.log(found) == "up\n", "it is not up")

    cluster.api.delete("v1", "Pod", "a", namespace=cluster_namespace)

    cluster.until(lambda: not cluster.api.list("v1", "Pod", namespace=cluster_namespace), "it is still there")
    assert cluster.log(found) == "up\nbye\n"


def test_a_killed_container_is_started_again_and_counted(cluster: Cluster, cluster_namespace: str) -> None:
    found = start(cluster, cluster_namespace, pod("a", "-c", "import time; time.sleep(1e6)"))
    before = cluster.pid(found)

    cluster.kill(found)

    cluster.until(lambda: restarts(cluster, cluster_namespace, "a") == 1, "it was not started again")
    cluster.until(lambda: _runs(cluster, found), "it does not run again")
    assert cluster.pid(found) != before
    status = cluster.api.get("v1", "Pod", "a", namespace=cluster_namespace)["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 137


def test_probes_decide_on_readiness_and_restarts(cluster: Cluster, cluster_namespace: str) -> None:
    probe = {"periodSeconds": 1, "failureThreshold": 1}
    container = {
        "readinessProbe": probe | {"exec": {"command": ["test", "-e", "/data/ready"]}},
        "livenessProbe": probe
        | {"exec": {"command": ["test", "!", "-e", "/data/sick"]}, "terminationGracePeriodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    wanted = pod(
        "a", "-c", "import time; time.sleep(1e6)", container=container, volumes=[{"name": "data", "emptyDir": {}}]
    )
    found = start(cluster, cluster_namespace, wanted)
    data = Path(f"/proc/{cluster.pid(found)}/root/data")
    not_ready = cluster.pods(cluster_namespace, ready=True)

    (data / "ready").touch()
    cluster.until_ready(cluster_namespace, "", 1)
    (data / "ready").unlink()
    cluster.until(lambda: not cluster.pods(cluster_namespace, ready=True), "it is still ready")
    (data / "sick").touch()

    assert not_ready == []
    cluster.until(lambda: restarts(cluster, cluster_namespace, "a") >= 1, "it was not restarted")


def test_a_changed_config_map_reaches_the_files_of_a_running_pod(cluster: Cluster, cluster_namespace: str) -> None:
    cluster.api.apply(CONFIG, namespace=cluster_namespace)
    container = {"volumeMounts": [{"name": "config", "mountPath": "/config"}]}
    volumes = [{"name": "config", "configMap": {"name": "settings"}}]
    found = start(
        cluster, cluster_namespace, pod("a", "-c", "import time; time.sleep(1e6)", container=container, volumes=volumes)
    )

    cluster.api.apply(CONFIG.replace("a: 1", "a: 2"), namespace=cluster_namespace)

    file = Path(f"/proc/{cluster.pid(found)}/root/config/epp.yaml")
    cluster.until(lambda: _text(file) == "a: 2", "the file is as it was")


def test_names_of_services_give_the_addresses_of_their_pods_that_are_ready(
    cluster: Cluster, cluster_namespace: str
) -> None:
    found = start(cluster, cluster_namespace, pod("a", "-c", "import time; time.sleep(1e6)"))
    cluster.api.patch("v1", "Pod", "a", {"metadata": {"labels": {"app": "a"}}}, namespace=cluster_namespace)
    for name, label in (("some", "a"), ("none", "b")):
        spec = {"selector": {"app": label}, "ports": [{"port": 80}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        cluster.api.create(service, namespace=cluster_namespace)
    names = ["some", f"some.{cluster_namespace}.svc.cluster.local", "none", "nobody", "example.com"]

    def looked_up() -> dict[str, Any]:
        return said(cluster, start(cluster, cluster_namespace, pod(f"asker-{next(NUMBERS)}", "-c", LOOK_UP, *names)))

    address = found["status"]["podIP"]
    expected = {name: [address] if name.startswith("some") else [] for name in names}
    cluster.until(lambda: looked_up() == expected, "names give something else")


def test_what_cannot_run_says_why_in_its_status(cluster: Cluster, cluster_namespace: str) -> None:
    cluster.api.create(pod("a", securityContext={"runAsNonRoot": True}), namespace=cluster_namespace)

    def reason() -> str:
        found = cluster.api.get("v1", "Pod", "a", namespace=cluster_namespace)["status"]
        statuses = found.get("containerStatuses") or [{}]
        return str(statuses[0].get("state", {}).get("waiting", {}).get("message", ""))

    cluster.until(lambda: reason() == "container has runAsNonRoot and image will run as root", "it says nothing")


def test_nothing_is_left_of_a_cluster() -> None:
    try:
        prepared = Cluster(crds=())
    except (NoClusterError, ToolMissingError) as missing:
        pytest.skip(str(missing))
    with prepared as running:
        bridge, folder = running.network.bridge, running.folder
        pid = running.pid(start(running, "default", pod("a", "-c", "import time; time.sleep(1e6)")))

        alive = os.path.exists(f"/proc/{pid}")

    assert alive
    running.control_plane.until(lambda: not os.path.exists(f"/proc/{pid}"), "its Pod still runs")
    assert not folder.exists()
    assert bridge not in subprocess.run(["ip", "link"], capture_output=True, text=True).stdout


def _text(file: Path) -> str:
    """Empty where the file is not there: for a moment it may be the old one's that is looked for."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _runs(cluster: Cluster, found: Object) -> bool:
    metadata = found["metadata"]
    status = cluster.api.get("v1", "Pod", metadata["name"], namespace=metadata["namespace"])["status"]
    return "running" in status["containerStatuses"][0]["state"]
