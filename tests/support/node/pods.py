"""One Pod on the test node: its network, volumes and containers, from the first sight of it until its object is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from epp.demo.processes import leashed
from tests.support.kube_api import ApiError, KubeApi
from tests.support.node import podspec
from tests.support.node.containers import Container, now
from tests.support.node.dns import DOMAIN
from tests.support.node.files import write_atomically
from tests.support.node.network import connect
from tests.support.node.podspec import NotYetError
from tests.support.node.settings import Image, Settings

Object = dict[str, Any]

RUNNING: Final = "running"
"""A file in a Pod's folder, for as long as anything of the Pod runs."""
_TOKEN_USED_FOR: Final = 0.8  # of its life, as a kubelet does
_AGAIN_S: Final = 0.2
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
"""What a container has when nothing is said (containerd's list)."""


class Pod:
    """`start` it; tell it by `update` what the server says of it, and by `vanish` that its object is gone."""

    def __init__(self, pod: Object, *, address: str, api: KubeApi, settings: Settings) -> None:
        self.pod = pod
        self.address = address
        self.done = asyncio.Event()
        """Nothing of it runs, and its object is gone or says how it ended."""
        self._api = api
        self._settings = settings
        metadata = pod["metadata"]
        self.uid: str = metadata["uid"]
        self.name: str = metadata["name"]
        self.namespace: str = metadata["namespace"]
        self._folder = Path(settings.folder) / "pods" / f"{self.namespace}_{self.name}_{self.uid}"
        self._holder: asyncio.subprocess.Process | None = None
        self._tokens: dict[str, tuple[bytes, float]] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace_s = 0.0
        self._conditions: dict[str, Object] = {}
        spec = pod["spec"]
        self._init = [self._container(c, init=True) for c in spec.get("initContainers", ())]
        self._main = [self._container(c) for c in spec["containers"]]
        self._initialized = False
        self._volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        (self._folder / RUNNING).touch()
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(_complain)

    def update(self, pod: Object) -> None:
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._stop(float(pod["metadata"].get("deletionGracePeriodSeconds", 30)))

    def vanish(self) -> None:
        """Somebody removed the object without waiting: what is on its way out has no time left either."""
        self._grace_s = 0.0
        if self._stopping.is_set():
            for container in (*self._main, *self._init):
                container.kill(signal.SIGKILL)
        self._stop(0.0)

    def _stop(self, grace_s: float) -> None:
        if not self._stopping.is_set():
            self._grace_s = grace_s
            self._stopping.set()

    async def _live(self) -> None:
        writing = asyncio.create_task(self._write_status())
        refreshing = asyncio.create_task(self._refresh_volumes())
        running = asyncio.create_task(self._run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running  # a mistake of ours shows here
                await self._stopping.wait()
            await self._end(running)
        finally:
            for task in (writing, refreshing, running, stopping):
                task.cancel()
            await asyncio.gather(writing, refreshing, running, stopping, return_exceptions=True)
            if self._holder is not None:
                self._holder.kill()
                await self._holder.wait()
            (self._folder / RUNNING).unlink()
            self.done.set()

    async def _run(self) -> None:
        """Until everything has ended by itself, which for most Pods is never."""
        await self._open_network()
        self._changed.set()
        await self._until_there(self._write_volumes)
        beside = []
        for container in self._init:
            task = asyncio.create_task(container.supervise())
            if container.spec.get("restartPolicy") == "Always":  # a sidecar: the next one waits until it has started
                beside.append(task)
                await container.has_started.wait()
            else:
                await task
                if container.exit_status:
                    return
        self._initialized = True
        self._changed.set()
        await asyncio.gather(*(container.supervise() for container in self._main))

    async def _end(self, running: asyncio.Task[None]) -> None:
        for containers in (self._main, self._init):  # sidecars, which are among the latter, go last
            await asyncio.gather(*(container.stop(self._grace_s) for container in containers))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self._call(self._api.delete, "v1", "Pod", self.name, namespace=self.namespace, grace_s=0, uid=self.uid)

    # --- containers ----------------------------------------------------------------------------------------------------

    def _container(self, spec: Object, *, init: bool = False) -> Container:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        if init and spec.get("restartPolicy") != "Always":
            policy = "Never" if policy == "Never" else "OnFailure"
        return Container(
            spec,
            address=self.address,
            folder=self._folder / spec["name"],
            patience=self._settings.patience,
            prepare=self._prepare,
            keep=lambda status: policy == "Always" or (policy == "OnFailure" and status != 0),
            changed=self._changed.set,
        )

    async def _prepare(self, container: Object) -> Object:
        return await asyncio.to_thread(self._told, container)

    def _told(self, container: Object) -> Object:
        image = self._image(container["image"])
        whole = self.pod["spec"].get("securityContext") or {}
        own = container.get("securityContext") or {}
        context = whole | own
        user = context.get("runAsUser", image.user)
        if context.get("runAsNonRoot") and user == 0:
            raise NotYetError("container has runAsNonRoot and image will run as root")
        variables = {"PATH": _DEFAULT_PATH, "HOSTNAME": self.name, "HOME": "/"} | image.environment
        known = self._with_address()
        variables |= podspec.environment(known, container, self._read, self._service_variables())
        changes = own.get("capabilities", {})
        dropped = changes.get("drop", ())
        kept = {} if "ALL" in dropped else {k: v for k, v in _CAPABILITIES.items() if k not in dropped}
        kept |= {name: _CAPABILITIES[name] for name in changes.get("add", ()) if name in _CAPABILITIES}
        groups = [*whole.get("supplementalGroups", ()), *([whole["fsGroup"]] if "fsGroup" in whole else ())]
        assert self._holder is not None
        return {
            "network_of": self._holder.pid,
            "hostname": self.name,
            "argv": podspec.command_line(container, list(image.entrypoint), list(image.arguments), variables),
            "env": variables,
            "cwd": container.get("workingDir", image.folder),
            "uid": user,
            "gid": context.get("runAsGroup", image.group),
            "groups": groups,
            "capabilities": list(kept.values()),
            "no_new_privileges": own.get("allowPrivilegeEscalation") is False,
            "read_only_root": bool(own.get("readOnlyRootFilesystem")),
            "visible": list(self._settings.visible),
            "links": image.links,
            "mounts": [
                *(
                    {"source": str(path), "target": f"/etc/{path.name}", "read_only": False}
                    for path in self._own_files()
                ),
                *(self._mount(mount) for mount in container.get("volumeMounts", ())),
            ],
        }

    def _image(self, reference: str) -> Image:
        for image in self._settings.images:
            if image.is_meant(reference):
                return image
        raise NotYetError(f"this node has no image for {reference}")

    def _mount(self, mount: Object) -> Object:
        source = self._folder / "volumes" / mount["name"]
        volume = self._volumes[mount["name"]]
        if mount.get("subPath"):
            source = (source / mount["subPath"]).resolve()
        return {
            "source": str(source),
            "target": mount["mountPath"].rstrip("/"),
            "read_only": mount.get("readOnly", False) or "emptyDir" not in volume,
        }

    def _own_files(self) -> list[Path]:
        """What the runtime puts into /etc of every container."""
        folder = self._folder / "etc"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hostname").write_text(f"{self.name}\n")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        search = f"{self.namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}"
        (folder / "resolv.conf").write_text(f"nameserver {self._settings.gateway}\nsearch {search}\noptions ndots:5\n")
        return [folder / name for name in ("hostname", "hosts", "resolv.conf")]

    def _service_variables(self) -> dict[str, str]:
        known = {
            "KUBERNETES_SERVICE_HOST": self._settings.api_host,
            "KUBERNETES_SERVICE_PORT": str(self._settings.api_port),
        }
        if self.pod["spec"].get("enableServiceLinks", True):
            services = self._ask(self._api.list, "v1", "Service", namespace=self.namespace)
            known = podspec.service_variables(services) | known
        return known

    # --- network and volumes -------------------------------------------------------------------------------------------

    async def _open_network(self) -> None:
        """A process that does nothing holds the namespace, as the pause container does."""
        self._holder = await asyncio.create_subprocess_exec(
            *leashed(["unshare", "--net", "sleep", "infinity"]),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        outside = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == outside:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)
        await asyncio.to_thread(connect, self._settings.bridge, self._holder.pid, self.address, self._settings.gateway)

    async def _until_there(self, step: Any) -> None:
        while True:
            try:
                await asyncio.to_thread(step)
                return
            except NotYetError as error:
                print(f"{self.namespace}/{self.name}: {error}", flush=True)
                await asyncio.sleep(_AGAIN_S)

    async def _refresh_volumes(self) -> None:
        while True:
            await asyncio.sleep(self._settings.read_again_s)
            if self._initialized:
                with contextlib.suppress(NotYetError):
                    await asyncio.to_thread(self._write_volumes)

    def _write_volumes(self) -> None:
        context = self.pod["spec"].get("securityContext") or {}
        group = context.get("fsGroup", -1)
        for name, volume in self._volumes.items():
            folder = self._folder / "volumes" / name
            files = podspec.volume_files(self._with_address(), volume, self._read, self._token)
            if files is not None:
                write_atomically(folder, files, mode=podspec.file_mode(volume), group=group)
            elif not folder.exists():
                folder.mkdir(parents=True)
                os.chown(folder, -1, group)
                folder.chmod(0o2777 if group >= 0 else 0o777)

    def _read(self, kind: str, name: str) -> Mapping[str, bytes] | None:
        found = self._ask(self._api.find, "v1", kind, name, namespace=self.namespace)
        return None if found is None else podspec.decoded(kind, found)

    def _token(self, source: Object) -> bytes:
        audience = source.get("audience", "")
        token, good_until = self._tokens.get(audience, (b"", 0.0))
        if time.monotonic() > good_until:
            seconds = source.get("expirationSeconds", 3600)
            account = self.pod["spec"]["serviceAccountName"]
            text = self._ask(
                self._api.service_account_token,
                account,
                namespace=self.namespace,
                seconds=seconds,
                audience=audience,
                bound_to=self.pod,
            )
            token, good_until = text.encode(), time.monotonic() + seconds * _TOKEN_USED_FOR
            self._tokens[audience] = token, good_until
        return token

    # --- status --------------------------------------------------------------------------------------------------------

    def _with_address(self) -> Object:
        status = self.pod.get("status", {}) | {"podIP": self.address, "hostIP": self._settings.gateway}
        return self.pod | {"status": status}

    async def _write_status(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            body = {"status": self._status()}
            with contextlib.suppress(ApiError):  # the object may be gone, or another of its name be there
                await self._call(
                    self._api.patch, "v1", "Pod", self.name, body, namespace=self.namespace, subresource="status"
                )

    def _status(self) -> Object:
        ready = bool(self._main) and all(c.ready for c in self._main)
        ready = ready and all(c.ready for c in self._init if c.spec.get("restartPolicy") == "Always")
        self._say("Initialized", self._initialized)
        self._say("ContainersReady", ready)
        self._say("Ready", ready)
        kept = {c["type"]: c for c in self.pod.get("status", {}).get("conditions", ())}
        return {
            "phase": self._phase(),
            "conditions": list((kept | self._conditions).values()),
            "hostIP": self._settings.gateway,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self.pod.get("status", {}).get("startTime") or now(),
            "containerStatuses": [c.status() for c in self._main],
            "initContainerStatuses": [c.status() for c in self._init],
        }

    def _phase(self) -> str:
        if all(c.finished.is_set() for c in self._main):
            return "Failed" if any(c.exit_status for c in self._main) else "Succeeded"
        return (
            "Running"
            if self._initialized and any(c.running or c.exit_status is not None for c in self._main)
            else "Pending"
        )

    def _say(self, kind: str, holds: bool) -> None:
        status = "True" if holds else "False"
        if self._conditions.get(kind, {}).get("status") != status:
            self._conditions[kind] = {"type": kind, "status": status, "lastTransitionTime": now()}

    # --- the API server ------------------------------------------------------------------------------------------------

    async def _call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Again until the server answers: it may be away for minutes, or be there without its database."""
        while True:
            try:
                return await asyncio.to_thread(function, *arguments, **named)
            except OSError:
                pass
            except ApiError as error:
                if error.status < 500:
                    raise
            await asyncio.sleep(_AGAIN_S)

    def _ask(self, function: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except OSError as error:
            raise NotYetError(f"the API server does not answer: {error}") from None
        except ApiError as error:
            raise NotYetError(str(error)) from None


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error)
