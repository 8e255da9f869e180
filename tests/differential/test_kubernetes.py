"""The Go EPP and ours beside one real API server: the same pool and Pods, the same endpoints."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from epp.demo.processes import Children
from epp.discovery.kubernetes.discovery import Wanted
from epp.server.health import EXT_PROC_SERVICE, READINESS
from tests.bench.go_epp import HOW_TO_GET, find_go_epp
from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.health import check
from tests.support.kube_api import KubeApi
from tests.support.kube_discovery import Running, running
from tests.support.kube_objects import make_pool
from tests.support.ports import free_port
from tests.support.stack import Epp, eventually, start_epp

POOL = "inference.networking.k8s.io/v1", "InferencePool"
DEADLINE_S = 90.0
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{{type: {parser}}}, {{type: queue-scorer}}, {{type: max-score-picker}}, {{type: single-profile-handler}}]
requestHandler: {{parsers: [{{pluginRef: {parser}}}]}}
schedulingProfiles: [{{name: default, plugins: [{{pluginRef: queue-scorer}}, {{pluginRef: max-score-picker}}]}}]
"""
# One line an endpoint, by its name.
ENDPOINT = re.compile(r'^llm_d_epp_per_endpoint_queue_size\{model_server_endpoint="([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class GoEpp:
    """A URL and an address."""

    metrics: str
    health: str


@asynccontextmanager
async def go_epp(
    plane: ControlPlane, namespace: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str
) -> AsyncIterator[GoEpp]:
    binary = find_go_epp()
    if binary is None:
        pytest.skip(f"the Go EPP is {HOW_TO_GET}")
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    port, health_port = free_port(), free_port()
    command = [
        str(binary),
        *("--pool-name", "pool", "--pool-namespace", namespace, "--secure-serving=false", "--tracing=false"),
        *("--metrics-endpoint-auth=false", "--enable-pprof=false", "--v", "1", "--metrics-port", str(port)),
        *("--grpc-port", str(free_port()), "--grpc-health-port", str(health_port)),
        *flags,
    ]
    async with Children(folder) as children:
        await children.start(command, name="go-epp")
        yield GoEpp(f"http://127.0.0.1:{port}/metrics", f"127.0.0.1:{health_port}")


async def names(url: str) -> list[str]:
    try:
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            return sorted(ENDPOINT.findall(await answer.text()))
    except aiohttp.ClientError:
        return []  # it has not begun to listen


async def agree(run: Running, go: GoEpp, expected: list[str]) -> None:
    await run.until(lambda: sorted(e.name for e in run.datastore.endpoints) == expected)
    found: list[str] = []
    for _ in range(900):
        if (found := await names(go.metrics)) == expected:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the Go EPP has {found}, expected {expected}")


async def test_the_same_objects_make_the_same_endpoints(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane.install_crds(*OFFICIAL_CRDS)
    api: KubeApi = control_plane.api
    labels = {"app": "vllm"}
    api.create(make_pool("pool", 8000, 8001, namespace=namespace))
    api.create_pod("both", namespace=namespace, ip="127.9.1.1", labels=labels)
    for number, key in enumerate(("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"), 2):
        annotations = {key: "8001, x"}
        api.create_pod(
            f"one-{number}", namespace=namespace, ip=f"127.9.1.{number}", labels=labels, annotations=annotations
        )
    api.create_pod(
        "none", namespace=namespace, ip="127.9.1.4", labels=labels, annotations={"llm-d.ai/active-ports": ""}
    )
    api.create_pod("unready", namespace=namespace, ip="127.9.1.5", labels=labels, ready=False)
    api.create_pod("foreign", namespace=namespace, ip="127.9.1.6", labels={"app": "other"})

    async with (
        go_epp(control_plane, namespace, tmp_path, monkeypatch) as go,
        running(control_plane.kubeconfig, Wanted(namespace, pool_name="pool")) as run,
    ):
        await agree(run, go, ["both-rank-0", "both-rank-1", "one-2-rank-1", "one-3-rank-1"])

        api.set_pod_status("unready", namespace=namespace, ip="127.9.1.5")
        api.set_pod_status("both", namespace=namespace, ip="127.9.1.1", ready=False)
        api.delete("v1", "Pod", "one-2", namespace=namespace, grace_s=0)
        await agree(run, go, ["one-3-rank-1", "unready-rank-0", "unready-rank-1"])

        api.patch(*POOL, "pool", {"spec": {"targetPorts": [{"number": 8001}]}}, namespace=namespace)
        await agree(run, go, ["one-3-rank-0", "unready-rank-0"])


@pytest.mark.parametrize(
    ("parser", "with_http"), [("openai-parser", "SERVING"), ("vllmgrpc-parser", "NOT_SERVING")], ids=["json", "grpc"]
)
async def test_a_parser_that_does_not_suit_the_pool_makes_neither_ready(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parser: str,
    with_http: str,
) -> None:
    control_plane.install_crds(*OFFICIAL_CRDS)
    api: KubeApi = control_plane.api
    api.create(make_pool(namespace=namespace))
    api.create_pod("a", namespace=namespace, ip="127.9.1.1", labels={"app": "vllm"})
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(parser=parser))
    flags = (f"--config-file={config}", "--pool-name=pool", f"--pool-namespace={namespace}")

    async with (
        go_epp(control_plane, namespace, tmp_path / "go", monkeypatch, f"--config-file={config}") as go,
        Children(tmp_path / "ours") as children,
    ):
        ours = await start_epp(
            children, *flags, f"--kubeconfig={control_plane.kubeconfig}", "--metrics-endpoint-auth=false"
        )
        await eventually(lambda: names(go.metrics), bool, deadline_s=DEADLINE_S)
        await eventually(ours.endpoints, bool, deadline_s=DEADLINE_S)
        await both_say(go, ours, with_http)

        api.patch(*POOL, "pool", {"spec": {"appProtocol": "kubernetes.io/h2c"}}, namespace=namespace)
        await both_say(go, ours, "SERVING")


async def both_say(go: GoEpp, ours: Epp, expected: str) -> None:
    services = (READINESS, "", EXT_PROC_SERVICE)
    for address in (go.health, ours.health):

        async def answers(address: str = address) -> list[str]:
            return [await check(address, service) for service in services]

        await eventually(answers, lambda found: found == [expected] * len(services), deadline_s=DEADLINE_S)
