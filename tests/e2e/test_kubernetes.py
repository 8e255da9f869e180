"""What the manifests and charts install serves requests: real control plane, real Envoy, real llama.cpp, and only the rights
that the manifests give."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from epp.demo.processes import Children
from tests.support.cluster import ROOT, Cluster
from tests.support.gateway import Gateway, Pool, Rule, gather_limited, start_gateway
from tests.support.kube_api import Object
from tests.support.pool_controller import follow_pool, service_addresses

pytestmark = [pytest.mark.e2e, pytest.mark.kube, pytest.mark.asyncio(loop_scope="session")]

MODEL = "llm-epp-demo"
CHARTS, OVERLAYS = ROOT / "deploy" / "charts", ROOT / "deploy" / "manifests" / "overlays"


def model_servers(image: str, replicas: int, *args: str) -> Object:
    """Pods with the label app=vllm-llama on port 8000, which go on for a moment when they are told to stop."""
    container = {
        "name": "server",
        "image": image,
        "args": list(args),
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
    }
    labels = {"app": "vllm-llama"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 20},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "llama"}, "spec": spec}


def llamas(replicas: int) -> Object:
    return model_servers("llama-cpp", replicas)


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


def overlay(folder: Path, namespace: str, name: str, **more: Any) -> str:
    """A kustomization over one of ours, in a namespace of its own, as the pages tell to make it."""
    base = Path(*[".."] * (len(folder.resolve().parts) - 1), *(OVERLAYS / name).parts[1:])
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [str(base)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization | more))
    return str(folder)


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


async def metric(pod: Object, name: str) -> float:
    """The sum of a metric's samples on the page of a picker that shows it to everybody."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{pod['status']['podIP']}:9090/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


async def test_kubectl_apply_for_an_existing_pool_serves(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    cluster.api.apply(llamas(2), namespace=cluster_namespace)
    cluster.api.apply(inference_pool(), namespace=cluster_namespace)

    cluster.kubectl("apply", "-k", overlay(tmp_path, cluster_namespace, "existing-pool"))

    async with gateway_for(cluster, cluster_namespace, tmp_path, "vllm-llama") as gateway:
        models = await complete(gateway.url, 20)
        [epp] = cluster.until_ready(cluster_namespace, "app.kubernetes.io/name=llm-epp", 1)
        counted = await metric(epp, "inference_objective_request_total")
    assert models == [MODEL]
    assert counted == 20


async def test_kubectl_apply_of_envoy_beside_the_epp_serves_without_a_gateway(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    cluster.api.apply(llamas(1), namespace=cluster_namespace)

    cluster.kubectl("apply", "-k", overlay(tmp_path, cluster_namespace, "standalone"))

    cluster.until_ready(cluster_namespace, "app=vllm-llama", 1)
    assert await complete(await standalone(cluster, cluster_namespace, "epp"), 10) == [MODEL]


async def test_kubectl_apply_with_prediction_servers_serves(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    cluster.api.apply(llamas(1), namespace=cluster_namespace)
    cluster.api.apply(inference_pool(), namespace=cluster_namespace)

    cluster.kubectl("apply", "-k", overlay(tmp_path, cluster_namespace, "predictor"))

    async with gateway_for(cluster, cluster_namespace, tmp_path, "vllm-llama") as gateway:
        models = await complete(gateway.url, 10)
    [epp] = cluster.until_ready(cluster_namespace, "app.kubernetes.io/name=llm-epp", 1)
    assert models == [MODEL]
    assert [s["ready"] for s in epp["status"]["containerStatuses"]] == [True, True, True]


@pytest.mark.parametrize(
    "values",
    [
        {"inferencePool": {"modelServers": {"matchLabels": {"app": "vllm-llama"}}}},
        {"router": {"modelServers": {"matchLabels": {"app": "vllm-llama"}}}},
        {
            "inferencePool": {"modelServers": {"matchLabels": {"app": "vllm-llama"}}},
            "inferenceExtension": {"latencyPredictor": {"enabled": True, "mode": "sidecars"}},
        },
    ],
    ids=["GIE values", "llm-d values", "prediction servers"],
)
async def test_helm_install_beside_a_gateway_serves(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path, values: Object
) -> None:
    cluster.api.apply(llamas(1), namespace=cluster_namespace)

    helm_install(cluster, cluster_namespace, "inferencepool", tmp_path, values)

    async with gateway_for(cluster, cluster_namespace, tmp_path, "pool", fail_open=True) as gateway:
        models = await complete(gateway.url, 10)
        [epp] = [p for p in cluster.pods(cluster_namespace) if p["metadata"]["name"].startswith("pool-epp-")]
        assert "in step with Kubernetes" in cluster.log(epp)
    assert models == [MODEL]


async def test_helm_install_standalone_serves_without_a_gateway(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    cluster.api.apply(llamas(1), namespace=cluster_namespace)
    values = {
        "inferenceExtension": {"endpointsServer": {"createInferencePool": False, "endpointSelector": "app=vllm-llama"}}
    }

    helm_install(cluster, cluster_namespace, "standalone", tmp_path, values)

    cluster.until_ready(cluster_namespace, "app=vllm-llama", 1)
    assert await complete(await standalone(cluster, cluster_namespace, "pool-epp"), 10) == [MODEL]


def helm_install(cluster: Cluster, namespace: str, chart: str, folder: Path, values: Object) -> None:
    """As the release `pool`."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    cluster.helm("install", "pool", str(CHARTS / chart), f"--namespace={namespace}", f"--values={file}")


async def standalone(cluster: Cluster, namespace: str, service: str) -> str:
    """The URL of an Envoy beside its EPP, once its Pod is ready."""

    def address() -> list[str]:
        return service_addresses(cluster, namespace, service, 8081)

    await asyncio.to_thread(cluster.until, lambda: bool(address()), f"nothing is ready behind {service}")
    return f"http://{address()[0]}"
