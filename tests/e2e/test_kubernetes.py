"""Whatever is installed serves requests: each overlay and each kind of values file, one after the other on one cluster, with a
real control plane, real Envoy, real llama.cpp, and only the rights that the manifests and charts give."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
import yaml

from epp.demo.processes import Children
from tests.support.accounts import METRICS_RULES, make_account
from tests.support.chart_cases import CASES, PLUGINS, WITH_POOL, rendered
from tests.support.charts import FIXTURES, RELEASE, Case
from tests.support.cluster import Cluster
from tests.support.foreign_kinds import write_definitions
from tests.support.gateway import Gateway, Pool, Rule, gather_limited, start_gateway
from tests.support.kube_api import Object
from tests.support.manifests import MANIFESTS, OVERLAYS, ROOT
from tests.support.pool_controller import follow_pool, service_addresses
from tests.support.stack import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.kube, pytest.mark.asyncio(loop_scope="session")]

MODEL = "llm-epp-demo"
GATEWAYS: Final = ROOT / "deploy" / "gateways" / "plain-envoy"
PLAIN_ENVOYS: Final = sorted(path.parent.name for path in GATEWAYS.glob("*/envoy.yaml"))
# Their Pods have programs that are not installed here: agentgateway, and vLLM.
WITHOUT_PROGRAM: Final = ("llm-d-standalone, selector, agentgateway", "llm-d-gateway, tokenizer")
# Every values file, and what else makes other objects than these do.
INSTALLED: Final = [
    name
    for name, (case, expected) in CASES.items()
    if (case.files or expected.objects != WITH_POOL) and name not in WITHOUT_PROGRAM
]
OWN_CONFIGURATION: Final[Object] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "mine"},
    "data": {"a.yaml": PLUGINS},
}


def model_servers(image: str, replicas: int, *args: str, name: str = "vllm-llama") -> Object:
    """Pods with the label app=`name` on port 8000, which go on for a moment when they are told to stop."""
    container = {
        "name": "server",
        "image": image,
        "args": list(args),
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
    }
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 20},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def inference_pool(name: str = "vllm-llama", picker: str = "epp") -> Object:
    spec = {
        "selector": {"matchLabels": {"app": "vllm-llama"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": picker, "port": {"number": 9002}},
    }
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": spec,
    }


@contextlib.asynccontextmanager
async def gateway_for(cluster: Cluster, namespace: str, folder: Path, name: str, **pool: Any) -> AsyncIterator[Gateway]:
    """A gateway that asks the picker of the InferencePool `name` over TLS, as they do, and follows both."""
    one = Pool("pool", tls=True, **pool)
    async with (
        Children(folder / "logs") as children,
        start_gateway(children, folder / "gateway", [one], [Rule({"pool": 1})]) as gateway,
        follow_pool(cluster, gateway, namespace, one, name),
    ):
        yield gateway


async def complete(url: str, count: int) -> list[str]:
    """Answers to as many different prompts, all of which must succeed; returns the models that they say they are of."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def one(number: int) -> tuple[int, str]:
            body = {"model": MODEL, "prompt": f"number {number}", "max_tokens": 4}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                return response.status, await response.text()

        answers = await gather_limited([one(number) for number in range(count)], 4)
    assert {status for status, _ in answers} == {200}, answers[:3]
    return sorted({json.loads(text)["model"] for _, text in answers})


def pickers(cluster: Cluster, namespace: str) -> list[Object]:
    """Those that are ready."""
    pods = cluster.pods(namespace, ready=True)
    return [pod for pod in pods if "epp" in [container["name"] for container in pod["spec"]["containers"]]]


async def metrics_page(address: str, token: str) -> str:
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"http://{address}/metrics") as response:
        assert response.status == 200, await response.text()
        return await response.text()


def total(page: str, name: str) -> float:
    """The sum of a metric's samples."""
    lines = [line for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


class Installed(NamedTuple):
    """Where things are installed: with model servers, an InferencePool, and somebody who may read metrics."""

    cluster: Cluster
    namespace: str
    reader: str

    async def decided(self) -> float:
        """How many requests the pickers have routed."""
        pages = [
            await metrics_page(f"{pod['status']['podIP']}:9090", self.reader)
            for pod in pickers(self.cluster, self.namespace)
        ]
        return sum(total(page, "inference_objective_request_total") for page in pages)

    async def answer(self, url: str) -> float:
        """Have ten requests answered by the model, and tell how many of them the pickers have routed.

        A proxy that fails open answers before it has found the picker, so that they begin when the picker was asked.
        """

        async def routed() -> float:
            try:
                await complete(url, 1)
                return await self.decided()
            except (AssertionError, aiohttp.ClientError) as problem:
                print(f"not yet: {problem}")
                return 0.0

        before = await eventually(routed, lambda count: count > 0, deadline_s=120)
        assert await complete(url, 10) == [MODEL]
        return await self.decided() - before

    def remove_pickers(self) -> None:
        """What is installed has been deleted, and its Pods need not take their time."""
        api = self.cluster.api
        # Deployments are gone; what they made would make Pods again until the garbage collector has come to it.
        for owner in api.list("apps/v1", "ReplicaSet", namespace=self.namespace, labelSelector="!app"):
            api.delete("apps/v1", "ReplicaSet", owner["metadata"]["name"], namespace=self.namespace)
        self.cluster.remove_pods(self.namespace, "!app")


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Installed]:
    with tempfile.TemporaryDirectory() as folder:
        cluster.control_plane.install_crds(write_definitions(Path(folder)))
    namespace = cluster.create_namespace("inference")  # that of overlays, which are applied as they are
    for name in ("vllm-llama", "vllm"):  # as overlays and as values files have it
        cluster.api.apply(model_servers("llama-cpp", 1, name=name), namespace=namespace)
    cluster.api.apply(inference_pool(), namespace=namespace)
    cluster.api.apply(OWN_CONFIGURATION, namespace=namespace)
    reader = make_account(cluster.control_plane, "reader", namespace=namespace, cluster_rules=METRICS_RULES)
    yield Installed(cluster, namespace, reader)
    cluster.clear(namespace)


@contextlib.contextmanager
def applied(place: Installed, *folders: Path) -> Iterator[None]:
    """By kubectl, until the block ends."""
    for folder in folders:
        place.cluster.kubectl("apply", "--server-side", "-k", str(folder))
    try:
        yield
    finally:
        for folder in folders:
            place.cluster.kubectl("delete", "--wait=false", "--ignore-not-found", "-k", str(folder))
        place.remove_pickers()


@contextlib.contextmanager
def released(place: Installed, chart: str, *values: str) -> Iterator[None]:
    """By helm, as the release `pool`, until the block ends."""
    namespace = f"--namespace={place.namespace}"
    place.cluster.helm("install", RELEASE, chart, *values, namespace)
    try:
        yield
    finally:
        place.cluster.helm("uninstall", RELEASE, namespace)
        place.remove_pickers()


@contextlib.asynccontextmanager
async def served(place: Installed, folder: Path, pool: str, service: str = "") -> AsyncIterator[str]:
    """The URL of the Envoy behind `service`, or of a gateway in front of `pool` where there is none."""
    if service:
        yield await behind(place.cluster, place.namespace, service)
        return
    async with gateway_for(place.cluster, place.namespace, folder, pool) as gateway:
        yield gateway.url


@pytest.mark.parametrize("name", sorted({*OVERLAYS} - {"monitoring"}))
async def test_kubectl_apply_of_an_overlay_serves(place: Installed, tmp_path: Path, name: str) -> None:
    with applied(place, MANIFESTS / "overlays" / name):
        async with served(place, tmp_path, "vllm-llama", "epp" if name == "standalone" else "") as url:
            routed = await place.answer(url)

    assert routed == 10


@pytest.mark.parametrize("name", PLAIN_ENVOYS)
async def test_kubectl_apply_of_a_plain_envoy_before_a_picker_serves(place: Installed, name: str) -> None:
    """The gateways whose controller is not a program of its own: they find picker and model servers by DNS."""
    with applied(place, MANIFESTS / "overlays" / "existing-pool", GATEWAYS / name):
        routed = await place.answer(await behind(place.cluster, place.namespace, "inference-gateway", 80))

    assert routed == 10


async def test_the_monitoring_overlay_reads_the_metrics_of_pickers_that_guard_them(
    place: Installed, tmp_path: Path
) -> None:
    """As the operator has Prometheus do it: by what the ServiceMonitor says, with the token that it names."""
    cluster, monitoring = place.cluster, place.cluster.create_namespace("monitoring")
    overlays = MANIFESTS / "overlays"
    with applied(place, overlays / "monitoring", overlays / "high-availability"):
        async with served(place, tmp_path, "vllm-llama") as url:
            await place.answer(url)
        spec = cluster.api.get("monitoring.coreos.com/v1", "ServiceMonitor", "epp", namespace=monitoring)["spec"]
        selector = ",".join(f"{key}={value}" for key, value in spec["selector"]["matchLabels"].items())
        [service] = cluster.api.list("v1", "Service", labelSelector=selector)
        [endpoint] = spec["endpoints"]
        token = endpoint["authorization"]["credentials"]
        secret = cluster.api.get("v1", "Secret", token["name"], namespace=monitoring)
        port = next(p["port"] for p in service["spec"]["ports"] if p["name"] == endpoint["port"])
        [leader] = service_addresses(cluster, place.namespace, service["metadata"]["name"], port)
        decided = await place.decided()
        page = await metrics_page(leader, base64.b64decode(secret["data"][token["key"]]).decode())
    cluster.clear(monitoring)

    assert total(page, "inference_objective_request_total") == decided > 0


@pytest.mark.parametrize("name", INSTALLED)
async def test_helm_install_of_a_values_file_serves(place: Installed, tmp_path: Path, name: str) -> None:
    case = CASES[name][0]
    chart, *values = case.arguments(tmp_path)
    (tmp_path / "changes.yaml").write_text(yaml.safe_dump(changes(case)))
    proxy = [o["metadata"]["name"] for o in rendered(name).objects if o["kind"] == "Service" and has_http(o)]

    with released(place, chart, *values, f"--values={tmp_path / 'changes.yaml'}"):
        async with served(place, tmp_path, RELEASE, *proxy) as url:
            routed = await place.answer(url)

    assert routed == 10


async def test_a_proxy_that_fails_open_serves_while_there_is_no_picker(place: Installed, tmp_path: Path) -> None:
    proxy = {"enabled": True, "mode": "service", "replicas": 1, "failOpen": True}
    labels = {"modelServers": {"matchLabels": {"app": "vllm"}}}
    case = Case("standalone", (), {"inferencePool": labels, "inferenceExtension": {"sidecar": proxy}})

    with released(place, *case.arguments(tmp_path)):
        url = await behind(place.cluster, place.namespace, f"{RELEASE}-proxy")
        assert await place.answer(url) == 10
        scale = ("scale", f"deployment/{RELEASE}-epp", "--replicas=0", f"--namespace={place.namespace}")
        await asyncio.to_thread(place.cluster.kubectl, *scale)
        await asyncio.to_thread(place.cluster.remove_pods, place.namespace, f"inferencepool={RELEASE}-epp")
        models = await complete(url, 10)

    assert models == [MODEL]


async def test_an_autoscaler_keeps_as_many_pickers_as_it_is_told_at_least(place: Installed, tmp_path: Path) -> None:
    """There are no measurements in this cluster, so that it asks for the least; the API server and its controller are real."""
    labels = {"modelServers": {"matchLabels": {"app": "vllm"}}}
    scaling = {"enabled": True, "minReplicas": 2}
    case = Case("inferencepool", (), {"inferencePool": labels, "inferenceExtension": {"autoscaling": scaling}})

    with released(place, *case.arguments(tmp_path)):
        selector = f"inferencepool={RELEASE}-epp"
        await asyncio.to_thread(place.cluster.until_ready, place.namespace, selector, 2)
        async with served(place, tmp_path, RELEASE) as url:
            routed = await place.answer(url)

    assert routed == 10


def has_http(service: Object) -> bool:
    """Whether clients connect to it, and not to a gateway."""
    return "http" in [port["name"] for port in service["spec"]["ports"]]


def changes(case: Case) -> Object:
    """What has to go from values that were written for other EPPs: images, and sizes of servers that fill a machine."""
    files = [yaml.safe_load((FIXTURES / f"{name}.yaml").read_text()) for name in case.files]
    at_once = {"readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 1}}
    prediction = {
        "trainingServer": {"image": None, **at_once},
        "predictionServers": {"image": None, **at_once, "config": {"UVICORN_WORKERS": "1"}},
    }
    if any("router" in values for values in (*files, case.values)):
        return {"router": {"epp": {"image": None}, "latencyPredictor": prediction}}
    sidecars = {"trainingServer": {"image": None}, "predictionServers": {"image": None}}
    return {"inferenceExtension": {"image": None, "latencyPredictor": prediction, "sidecars": sidecars}}


async def behind(cluster: Cluster, namespace: str, service: str, port: int = 8081) -> str:
    """The URL of an Envoy, once the Pod that has it is ready."""
    addresses = partial(service_addresses, cluster, namespace, service, port)
    first, *_ = await asyncio.to_thread(cluster.until, addresses, f"nothing is ready behind {service}")
    return f"http://{first}"
