"""A Kubernetes cluster of one node: a real control plane with its controllers, and the test node that runs Pods.

Pods have addresses that this machine reaches, so a real Envoy, started beside them, is the gateway. Needs root and Linux
namespaces. Images are names for programs of this machine. Leaving the `with` block ends every process of every Pod.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

from epp.demo.envoy import find_envoy
from epp.demo.model import ensure_model
from epp.demo.processes import leashed
from tests.support.control_plane import ADMIN_TOKEN, OFFICIAL_CRDS, ControlPlane, ControlPlaneError
from tests.support.kube_api import Object
from tests.support.node.network import Network, open_network
from tests.support.node.pods import RUNNING
from tests.support.node.settings import Image, Settings
from tests.support.processes import family, has_ended

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[2]
NODE: Final = "n1"
PATIENCE: Final = 30.0  # a machine with many jobs answers a probe late; thresholds and periods are as the manifests say
READ_AGAIN_S: Final = 1.0
_END_WITHIN_S: Final = 30.0
_BIN: Final = Path(sys.executable).parent


class NoClusterError(Exception):
    """This machine cannot run one. The message says what is missing."""


def why_not() -> str | None:
    """What this machine lacks for a cluster."""
    if sys.platform != "linux":
        return "a test node needs Linux"
    if os.geteuid() != 0:
        return "a test node makes network and mount namespaces: run the tests as root"
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        return f"a test node needs {', '.join(missing)} (Debian: iproute2, util-linux)"
    try:
        with open_network():
            pass
    except OSError as error:
        return f"a test node needs to make a network bridge: {error}"
    return None


def images() -> tuple[Image, ...]:
    """Those that manifests, charts and tests name."""
    path = {"PATH": f"{_BIN}:/usr/local/bin:/usr/bin:/bin"}
    model = str(ensure_model())
    llama = (sys.executable, "-m", "epp.demo.llamacpp", "--model", model, "--host", "0.0.0.0", "--port", "8000")
    return (
        _own_image(path),
        Image(
            "envoy",
            ("envoy",),
            environment=path,
            user=101,
            group=101,
            links={"/usr/local/bin/envoy": str(find_envoy())},
        ),
        Image("llama-cpp", llama, environment=path),
        Image("model-server-sim", ("epp", "sim"), environment=path),
        Image("python", (sys.executable,), environment=path),
    )


def _own_image(path: dict[str, str]) -> Image:
    """What deploy/Containerfile makes: what it starts, and as whom."""
    lines = [line.partition(" ") for line in (ROOT / "deploy" / "Containerfile").read_text().splitlines()]
    last = {instruction: value for instruction, _, value in lines if instruction in ("ENTRYPOINT", "USER")}
    user, _, group = last["USER"].partition(":")
    return Image("llm-epp", tuple(json.loads(last["ENTRYPOINT"])), environment=path, user=int(user), group=int(group))


class Cluster:
    """Use it with `with`. `api`, `kubectl` and `helm` are the control plane's."""

    def __init__(self, *, crds: Sequence[Path] = OFFICIAL_CRDS) -> None:
        if reason := why_not():
            raise NoClusterError(reason)
        ControlPlane(controllers=True)  # finds the programs
        self._crds = crds
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._ends:
            self.network: Network = self._ends.enter_context(open_network())
            self.control_plane = self._ends.enter_context(ControlPlane(controllers=True, host=self.network.host))
            self.api = self.control_plane.api
            self.kubectl = self.control_plane.kubectl
            self.helm = self.control_plane.helm
            self.folder = self.control_plane.folder / "node"
            self.folder.mkdir()
            self.control_plane.install_crds(*self._crds)
            self._start_node()
            self._ends = self._ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def until(self, condition: Callable[[], T | None], problem: str) -> T:
        """What it says when it first is true. Raises ControlPlaneError that shows what the Pods are doing."""
        try:
            return self.control_plane.until(condition, problem)
        except ControlPlaneError as error:
            raise ControlPlaneError(f"{error}\n{self.describe()}") from None

    def create_namespace(self, name: str) -> str:
        """With what the controllers put into each: Pods may be created at once."""
        self.control_plane.create_namespace(name)
        self.until(
            lambda: self.api.find("v1", "ServiceAccount", "default", namespace=name),
            f"namespace {name} has no service account",
        )
        return name

    def clear(self, namespace: str) -> None:
        """Delete the namespace and let its Pods go without grace; returns when none runs any more."""
        for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"):
            for owner in self.api.list("apps/v1", kind, namespace=namespace):
                self.api.delete("apps/v1", kind, owner["metadata"]["name"], namespace=namespace)
        self.api.delete("v1", "Namespace", namespace)
        self.remove_pods(namespace)

    # --- Pods ----------------------------------------------------------------------------------------------------------

    def pods(self, namespace: str, selector: str = "", *, ready: bool = False) -> list[Object]:
        """Those that are not on their way out; only those that are Ready with `ready`."""
        found = self.api.list("v1", "Pod", namespace=namespace, labelSelector=selector)
        return [p for p in found if "deletionTimestamp" not in p["metadata"] and (is_ready(p) or not ready)]

    def until_ready(self, namespace: str, selector: str, count: int) -> list[Object]:
        """The Pods, once there are as many as `count` and all are Ready."""

        def ready() -> list[Object] | None:
            found = self.pods(namespace, selector)
            return found if len(found) == count and all(is_ready(pod) for pod in found) else None

        return self.until(ready, f"{count} Pods {selector} are not Ready")

    def remove_pods(self, namespace: str, selector: str = "") -> None:
        """Let them go without grace; returns when none is left. What owns them has to be gone."""

        def removed() -> bool:
            pods = self.api.list("v1", "Pod", namespace=namespace, labelSelector=selector)
            for pod in pods:
                self.api.delete("v1", "Pod", pod["metadata"]["name"], namespace=namespace, grace_s=0)
            there = {pod["metadata"]["uid"] for pod in self.api.list("v1", "Pod", namespace=namespace)}
            running = (path.parent.name for path in self.folder.glob(f"pods/{namespace}_*/{RUNNING}"))
            return not pods and all(name.rpartition("_")[2] in there for name in running)

        self.until(removed, f"Pods of {namespace} are left")

    def log(self, pod: Object, container: str = "") -> str:
        """What a container has written, over all of its starts; that of the first one if none is named."""
        metadata = pod["metadata"]
        folder = self.folder / "pods" / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
        path = folder / (container or pod["spec"]["containers"][0]["name"]) / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def pid(self, pod: Object, container: str = "") -> int:
        """Of the container's process, as this machine knows it."""
        metadata = pod["metadata"]
        current = self.api.get("v1", "Pod", metadata["name"], namespace=metadata["namespace"])
        statuses = {s["name"]: s for s in current["status"]["containerStatuses"]}
        text: str = statuses[container or pod["spec"]["containers"][0]["name"]]["containerID"]
        return int(text.removeprefix("process://"))

    def kill(self, pod: Object, container: str = "", number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(pod, container), number)

    def describe(self) -> str:
        """Every Pod with the end of its containers' logs, and the end of the node's own."""
        shown = self.kubectl("get", "pods", "--all-namespaces", "-o", "wide")
        logs = (
            f"--- {pod['metadata']['name']} {container['name']}\n{self.log(pod, container['name'])[-2000:]}"
            for pod in self.api.list("v1", "Pod")
            for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
        )
        return "\n".join([shown, *logs, f"--- node\n{(self.folder / 'log').read_text()[-3000:]}"])

    def _start_node(self) -> None:
        settings = Settings(
            node=NODE,
            folder=str(self.folder),
            api_host=self.control_plane.host,
            api_port=self.control_plane.port,
            api_ca=self.control_plane.ca,
            api_token=ADMIN_TOKEN,
            bridge=self.network.bridge,
            gateway=self.network.host,
            images=images(),
            visible=tuple(str(p) for p in (ROOT, Path(sys.prefix), Path(sys.base_prefix), ensure_model().parent)),
            patience=PATIENCE,
            read_again_s=READ_AGAIN_S,
        )
        path = self.folder / "settings.json"
        path.write_bytes(msgspec.json.encode(settings))
        with (self.folder / "log").open("wb") as log:
            node = subprocess.Popen(
                leashed([sys.executable, "-m", "tests.support.node", str(path)]),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._ends.callback(_end, node)
        self.until(lambda: self.api.find("v1", "Node", NODE), "the node does not register")


def is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _end(node: subprocess.Popen[bytes]) -> None:
    """All that it started ends with it, by the kernel's doing; returns when that is done, so that nobody writes any more."""
    started = family(node.pid)
    node.kill()
    node.wait()
    give_up_at = time.monotonic() + _END_WITHIN_S
    while not all(has_ended(pid) for pid in started) and time.monotonic() < give_up_at:
        time.sleep(0.02)
