"""While Pods of the pool and of the picker come, go and die, requests at a steady rate are answered."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.envoy.modes import Readers, choose
from tests.e2e.test_kubernetes import MODEL, gateway_for, inference_pool, model_servers
from tests.support.cluster import Cluster
from tests.support.kube_api import Object
from tests.support.manifests import MANIFESTS
from tests.support.steady_load import steady_load

pytestmark = [pytest.mark.e2e, pytest.mark.kube, pytest.mark.asyncio(loop_scope="session")]

RATE = 100.0  # a second
LEAST = 1000  # requests, however soon all that was to happen has happened
EPP = "app.kubernetes.io/name=llm-epp"
SERVERS = "app=vllm-llama"


def draining_for(seconds: int) -> Object:
    """A patch, so that a picker that is told to go has gone while the load goes on."""
    path = "/spec/template/spec/containers/0/args/3"
    operations = [
        {"op": "test", "path": path, "value": "--drain-timeout=120s"},
        {"op": "replace", "path": path, "value": f"--drain-timeout={seconds}s"},
    ]
    return {"target": {"kind": "Deployment", "name": "epp"}, "patch": json.dumps(operations)}


def overlay(folder: Path, namespace: str, name: str, **more: Any) -> str:
    """A kustomization over one of ours, in a namespace of its own, as the pages tell to make it."""
    base = Path(*[".."] * (len(folder.resolve().parts) - 1), *(MANIFESTS / "overlays" / name).parts[1:])
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [str(base)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization | more))
    return str(folder)


def simulators(replicas: int) -> Object:
    return model_servers(
        "model-server-sim", replicas, "--host=0.0.0.0", "--port=8000", f"--model={MODEL}", "--speed=20"
    )


async def test_no_request_fails_while_model_servers_and_pickers_are_scaled_and_replaced(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    namespace = cluster_namespace
    cluster.api.apply(simulators(1), namespace=namespace)
    cluster.api.apply(inference_pool(), namespace=namespace)
    cluster.kubectl("apply", "-k", overlay(tmp_path, namespace, "existing-pool", patches=[draining_for(5)]))

    async with (
        gateway_for(cluster, namespace, tmp_path, "vllm-llama") as gateway,
        steady_load(gateway.url, rate=RATE, model=MODEL, streamed=1) as load,
    ):
        for deployment, selector in (("vllm-llama", SERVERS), ("epp", EPP)):
            for count in (3, 1):
                await asyncio.to_thread(_scale, cluster, namespace, deployment, selector, count)
                await load.until_answered(100)
            await asyncio.to_thread(_replace, cluster, namespace, deployment, selector)
            await load.until_answered(100)
        await load.until_answered(LEAST - load.answered)

    print(f"{len(load.failures)} of {load.sent} requests failed")
    assert load.failures == []
    assert load.answered == load.sent >= LEAST


async def test_no_request_fails_when_the_leader_is_told_to_go_nor_when_it_is_killed(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    """Told to go: even where no request may pass without a decision. Killed: with what `epp envoy-config --failure-mode open`
    has Envoy send."""
    namespace = cluster_namespace
    cluster.api.apply(simulators(2), namespace=namespace)
    cluster.api.apply(inference_pool(), namespace=namespace)
    cluster.kubectl("apply", "-k", overlay(tmp_path, namespace, "high-availability", patches=[draining_for(15)]))
    modes = choose(Readers(request=("a parser",), response=("a parser",)), fail_open=True)
    keeping = {"fail_open": True, "request_body": modes.request, "response_body": modes.response}

    for name, go, pool in (("told", partial(_delete, cluster), {}), ("killed", cluster.kill, keeping)):
        async with (
            gateway_for(cluster, namespace, tmp_path / name, "vllm-llama", **pool) as gateway,
            steady_load(gateway.url, rate=RATE, model=MODEL, streamed=1) as load,
        ):
            leader = await asyncio.to_thread(_leader, cluster, namespace)
            await load.until_answered(100)
            await asyncio.to_thread(go, leader)
            await asyncio.to_thread(
                cluster.until, partial(_is_another, cluster, namespace, leader), "nobody else leads"
            )
            await load.until_answered(max(100, LEAST - load.answered))
        print(f"{name}: {len(load.failures)} of {load.sent} requests failed")
        assert load.failures == []
        assert load.answered == load.sent >= LEAST


def _scale(cluster: Cluster, namespace: str, deployment: str, selector: str, count: int) -> None:
    """Return when there are so many Pods, all are ready, and the others are gone."""
    cluster.kubectl("scale", f"deployment/{deployment}", f"--replicas={count}", f"-n={namespace}")
    cluster.until_ready(namespace, selector, count)
    cluster.until(lambda: len(_all(cluster, namespace, selector)) == count, "Pods are left")


def _replace(cluster: Cluster, namespace: str, deployment: str, selector: str) -> None:
    """Return when those of before are gone and another one is ready."""
    before = _all(cluster, namespace, selector)
    cluster.kubectl("rollout", "restart", f"deployment/{deployment}", f"-n={namespace}")
    cluster.until(lambda: not before & _all(cluster, namespace, selector), "Pods are not replaced")
    cluster.until_ready(namespace, selector, len(before))


def _all(cluster: Cluster, namespace: str, selector: str) -> set[str]:
    """Those on their way out, too."""
    found = cluster.api.list("v1", "Pod", namespace=namespace, labelSelector=selector)
    return {pod["metadata"]["uid"] for pod in found}


def _leader(cluster: Cluster, namespace: str) -> Object:
    """The only picker that is ready."""

    def only() -> Object | None:
        found = cluster.pods(namespace, EPP, ready=True)
        return found[0] if len(found) == 1 else None

    return cluster.until(only, "not exactly one picker leads")


def _is_another(cluster: Cluster, namespace: str, before: Object) -> bool:
    """Whether one is ready that is neither `before` nor what was started again in its place."""
    return any(_process(pod) != _process(before) for pod in cluster.pods(namespace, EPP, ready=True))


def _process(pod: Object) -> str:
    identity: str = pod["status"]["containerStatuses"][0]["containerID"]
    return identity


def _delete(cluster: Cluster, pod: Object) -> None:
    cluster.api.delete("v1", "Pod", pod["metadata"]["name"], namespace=pod["metadata"]["namespace"])
