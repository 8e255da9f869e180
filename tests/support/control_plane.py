"""A real Kubernetes control plane on loopback: etcd and kube-apiserver, and on request controllers and scheduler.

It owns a folder, the processes and their credentials. RBAC, validation, watches, leases and tokens are the real ones.
There is no kubelet: without one, Pods are what tests write into their status. Ready in about two seconds; blocking calls.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.demo.processes import leashed
from tests.support import tools
from tests.support.kube_api import KubeApi

T = TypeVar("T")

OFFICIAL_CRDS: Final = tuple(
    Path(__file__).parents[1] / "fixtures" / "crds" / f"{group_and_plural}.yaml"
    for group_and_plural in (
        "inference.networking.k8s.io_inferencepools",
        "inference.networking.x-k8s.io_inferencemodelrewrites",
        "inference.networking.x-k8s.io_inferenceobjectives",
        "inference.networking.x-k8s.io_inferencepoolimports",
        "llm-d.ai_inferencemodelrewrites",
        "llm-d.ai_inferenceobjectives",
    )
)
ADMIN_TOKEN: Final = "admin-token"
ISSUER: Final = "https://kubernetes.default.svc"
SERVICE_RANGE: Final = "10.0.0.0/24"
START_DEADLINE_S: Final = 90.0  # a loaded machine takes many times the usual two seconds
COMMAND_DEADLINE_S: Final = 100.0
STOP_DEADLINE_S: Final = 30.0
_ETCD_SOCKET: Final = "etcd:0"


class ControlPlaneError(Exception):
    """A part ended too early or was not ready in time, or a command failed. The message has the end of its output."""


class ControlPlane:
    """Start it with `with`; leaving the block stops everything and removes the folder.

    `host` is the address that it listens on and that is in its certificate. `controllers` adds controller-manager and
    scheduler, and with them admission by ServiceAccount. Raises ToolMissingError where a program is not here.
    """

    def __init__(self, *, controllers: bool = False, host: str = "127.0.0.1") -> None:
        self._binaries = {tool: tools.find(tool) for tool in (tools.ETCD, tools.KUBE_APISERVER, tools.KUBECTL)}
        if controllers:
            self._binaries |= {t: tools.find(t) for t in (tools.KUBE_CONTROLLER_MANAGER, tools.KUBE_SCHEDULER)}
        self._controllers = controllers
        self.host = host
        self._parts: dict[str, subprocess.Popen[bytes]] = {}

    # --- from start to end ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        # Not pytest's folder: the path of a Unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="control-plane-"))
        try:
            self._port = _reserved(self.host)
            self.port: int = self._port.getsockname()[1]
            self.ca = _write_credentials(self.folder, self.host)
            self.api = self.as_user(ADMIN_TOKEN)
            self.kubeconfig = self.write_kubeconfig("admin", ADMIN_TOKEN)
            self._start_etcd()
            self.start_api_server()
            if self._controllers:
                self._start_controllers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    @property
    def etcd_socket(self) -> Path:
        """Where etcd listens to clients."""
        return self.folder / _ETCD_SOCKET

    def start_api_server(self) -> None:
        """On the same port and the same data as before; returns when it is ready."""
        admission = () if self._controllers else ("--disable-admission-plugins=ServiceAccount",)
        self._start(
            tools.KUBE_APISERVER,
            f"--etcd-servers=unix://{self.etcd_socket}",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--secure-port={self.port}",
            "--permit-port-sharing",  # the port is held by a socket of this process, so that nobody else can take it
            f"--tls-cert-file={self.folder}/server.crt",
            f"--tls-private-key-file={self.folder}/server.key",
            f"--cert-dir={self.folder}/certs",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.folder}/sa.key",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--allow-privileged=true",
            "--shutdown-send-retry-after=false",
            *admission,
        )
        self._wait(tools.KUBE_APISERVER.name, self.api.healthy, "answered 200 on /readyz")

    def kill_api_server(self) -> None:
        """SIGKILL, as when its machine dies; everything stays in etcd. `start_api_server` brings it back."""
        process = self._parts.pop(tools.KUBE_APISERVER.name)
        process.kill()
        process.wait()

    def pause_api_server(self) -> None:
        """It keeps its connections and says nothing."""
        self._parts[tools.KUBE_APISERVER.name].send_signal(signal.SIGSTOP)

    def resume_api_server(self) -> None:
        self._parts[tools.KUBE_APISERVER.name].send_signal(signal.SIGCONT)

    # --- who and what --------------------------------------------------------------------------------------------------

    def as_user(self, token: str) -> KubeApi:
        return KubeApi(self.host, self.port, ca=self.ca, token=token)

    def write_kubeconfig(self, name: str, token: str, *, namespace: str = "default") -> Path:
        """A file with one context, called `name`."""
        path = self.folder / f"{name}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "ca.crt")}
        context = {"cluster": "test", "user": name, "namespace": namespace}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": name, "user": {"token": token}}],
                    "contexts": [{"name": name, "context": context}],
                    "current-context": name,
                }
            )
        )
        return path

    def create_namespace(self, name: str) -> str:
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def install_crds(self, *files: Path) -> None:
        """Apply them and return when the server serves them, and kubectl finds them. May be called again."""
        names = [crd["metadata"]["name"] for file in files for crd in self.api.apply(file.read_text())]
        self.until(lambda: not names or self._all_served(names), f"not all of {', '.join(names)} are served")

    def until(self, condition: Callable[[], T | None], problem: str) -> T:
        """What `condition` says when it first is true. Raises ControlPlaneError(`problem`) when that does not come about."""
        give_up_at = time.monotonic() + START_DEADLINE_S
        while not (found := condition()):
            if time.monotonic() > give_up_at:
                raise ControlPlaneError(f"{problem} after {START_DEADLINE_S:g} s")
            time.sleep(0.02)
        return found

    # --- commands ------------------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What it prints, as the admin. Raises ControlPlaneError with what it complains about."""
        return self._command(self._binaries[tools.KUBECTL], arguments, stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """The same. Raises ToolMissingError where there is none."""
        return self._command(tools.find(tools.HELM), arguments, stdin)

    def pids(self) -> list[int]:
        return [process.pid for process in self._parts.values()]

    def log(self, part: str) -> str:
        """What a part has written so far, such as `kube-apiserver`."""
        return (self.folder / f"{part}.log").read_text(errors="replace")

    def _command(self, program: Path, arguments: Sequence[str], stdin: str) -> str:
        home = self.folder / "home"
        own = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(home)}
        own |= {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [str(program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=os.environ | own,
            timeout=COMMAND_DEADLINE_S,
        )
        if done.returncode:
            raise ControlPlaneError(
                f"{program.name} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    # --- the processes -------------------------------------------------------------------------------------------------

    def _start_etcd(self) -> None:
        self._start(
            tools.ETCD,
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=unix://{_ETCD_SOCKET}",  # relative to the folder, and must look like host:port
            f"--advertise-client-urls=unix://{_ETCD_SOCKET}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",
        )
        self._wait(tools.ETCD.name, self.etcd_socket.exists, "listened")

    def _start_controllers(self) -> None:
        common = [f"--{use}kubeconfig={self.kubeconfig}" for use in ("", "authentication-", "authorization-")]
        common += ["--leader-elect=false", "--secure-port=0"]
        self._start(
            tools.KUBE_CONTROLLER_MANAGER,
            *common,
            f"--service-account-private-key-file={self.folder}/sa.key",
            f"--root-ca-file={self.folder}/ca.crt",
            "--node-monitor-grace-period=1h",  # a busy machine is no reason to evict
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        self._start(tools.KUBE_SCHEDULER, *common)
        self._wait(
            tools.KUBE_CONTROLLER_MANAGER.name,
            lambda: (
                self.api.find("v1", "ServiceAccount", "default", namespace="default") is not None
                and self.api.find("v1", "ConfigMap", "kube-root-ca.crt", namespace="default") is not None
            ),
            "gave the default namespace its service account",
        )

    def _start(self, tool: tools.Tool, *flags: str) -> None:
        with (self.folder / f"{tool.name}.log").open("ab") as log:
            self._parts[tool.name] = subprocess.Popen(
                leashed([str(self._binaries[tool]), *flags]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def _wait(self, part: str, ready: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + START_DEADLINE_S
        while not ready():
            ended = self._parts[part].poll()
            if ended is not None or time.monotonic() > give_up_at:
                how = f"took longer than {START_DEADLINE_S:g} s" if ended is None else f"ended with status {ended}"
                raise ControlPlaneError(f"{part} {how} before it {what}:\n{self.log(part)[-4000:]}")
            time.sleep(0.02)

    def _all_served(self, kinds: Sequence[str]) -> bool:
        try:
            self.kubectl("get", "--all-namespaces", ",".join(kinds))
        except ControlPlaneError:
            return False
        return True

    def _stop(self) -> None:
        """Nothing has to be kept, so that nobody is asked politely; etcd goes last, for the others talk to it."""
        for process in reversed(self._parts.values()):
            process.kill()
        for process in self._parts.values():
            process.wait(STOP_DEADLINE_S)
        self._parts.clear()
        if hasattr(self, "_port"):
            self._port.close()
        if hasattr(self, "api"):
            self.api.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _reserved(host: str) -> socket.socket:
    """A port of `host` that is ours as long as the socket is open, and that a process of ours may listen on."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, 0))
    return held


def _write_credentials(folder: Path, host: str) -> str:
    """Keys, certificates and the admin's token as files; returns the CA's certificate."""
    signer, key, accounts = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "control plane of a test")])
    authority = (
        _certificate(ca_name, signer.public_key(), ca_name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    names = [x509.DNSName(name) for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")]
    addresses = [x509.IPAddress(ipaddress.ip_address(a)) for a in sorted({host, "127.0.0.1", "10.0.0.1"})]
    server = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")]), key.public_key(), ca_name)
        .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    ca = authority.public_bytes(serialization.Encoding.PEM).decode()
    (folder / "ca.crt").write_text(ca)
    (folder / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(_pem(key))
    (folder / "sa.key").write_bytes(_pem(accounts))
    (folder / "tokens.csv").write_text(f"{ADMIN_TOKEN},admin,admin,system:masters\n")
    return ca


_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _certificate(name: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    today = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=365))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
