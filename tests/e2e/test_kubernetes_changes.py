"""While Pods of the pool and of the picker come, go and die, requests at a steady rate are answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.test_kubernetes import MODEL, gateway_for, inference_pool, model_servers, overlay
from tests.support.cluster import Cluster
from tests.support.kube_api import Object
from tests.support.stack import eventually
from tests.support.steady_load import steady_load

pytestmark = [pytest.mark.e2e, pytest.mark.kube, pytest.mark.asyncio(loop_scope="session")]

RATE = 100.0
EPP = "app.kubernetes.io/name=llm-epp"
SERVERS = "app=vllm-llama"


def simulators(replicas: int) -> Object:
    return model_servers(
        "model-server-sim", replicas, "--host=0.0.0.0", "--port=8000", f"--model={MODEL}", "--speed=20"
    )


@pytest.mark.timeout(300)
async def test_no_request_fails_while_the_pool_is_scaled_and_the_picker_rolls(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    namespace = cluster_namespace
    cluster.api.apply(simulators(1), namespace=namespace)
    cluster.api.apply(inference_pool(), namespace=namespace)
    cluster.kubectl("apply", "-k", overlay(tmp_path, namespace, "existing-pool"))

    async with (
        gateway_for(cluster, namespace, tmp_path, "vllm-llama") as gateway,
        steady_load(gateway.url, rate=RATE, model=MODEL) as load,
    ):
        [old] = await asyncio.to_thread(cluster.until_ready, namespace, EPP, 1)
        await load.until_answered(20)
        for count in (3, 1):
            await asyncio.to_thread(
                cluster.kubectl, "scale", "deployment/llama", f"--replicas={count}", f"-n={namespace}"
            )
            await asyncio.to_thread(cluster.until_ready, namespace, SERVERS, count)
            await asyncio.to_thread(
                cluster.until, lambda count=count: _exist(cluster, namespace, SERVERS) == count, "Pods are left"
            )
            await load.until_answered(20)
        await asyncio.to_thread(cluster.kubectl, "rollout", "restart", "deployment/epp", f"-n={namespace}")
        await asyncio.to_thread(
            cluster.until, lambda: _is_another(cluster, namespace, old), "the picker is not replaced"
        )
        await load.until_answered(40)

    assert load.failures == []
    assert load.answered == load.sent >= 100


@pytest.mark.timeout(300)
async def test_a_leader_that_is_told_to_go_fails_no_request_and_one_that_dies_only_those_that_were_on_their_way(
    cluster: Cluster, cluster_namespace: str, tmp_path: Path
) -> None:
    namespace = cluster_namespace
    cluster.api.apply(simulators(2), namespace=namespace)
    cluster.api.apply(inference_pool(), namespace=namespace)
    cluster.kubectl("apply", "-k", overlay(tmp_path, namespace, "high-availability"))

    async with gateway_for(cluster, namespace, tmp_path, "vllm-llama", fail_open=True) as gateway:
        async with steady_load(gateway.url, rate=RATE, model=MODEL) as told:
            first = await asyncio.to_thread(_leader, cluster, namespace)
            await told.until_answered(20)
            await asyncio.to_thread(_delete, cluster, first)
            await asyncio.to_thread(cluster.until, lambda: _is_another(cluster, namespace, first), "nobody else leads")
            await told.until_answered(40)

        async with steady_load(gateway.url, rate=RATE, model=MODEL) as killed:
            second = await asyncio.to_thread(_leader, cluster, namespace)
            await killed.until_answered(20)
            await asyncio.to_thread(cluster.kill, second)
            address = second["status"]["podIP"]
            await eventually(
                lambda: gateway.addresses("pool-epp"), lambda used: address not in str(used), deadline_s=60
            )
            noticed_s = asyncio.get_running_loop().time()
            await asyncio.to_thread(cluster.until, lambda: _is_another(cluster, namespace, second), "nobody else leads")
            await killed.until_answered(40)

    assert told.failures == []
    late = [failure for failure in killed.failures if failure.sent_s > noticed_s]
    assert late == []
    print(
        f"{len(killed.failures)} of {killed.sent} requests failed, all sent before the gateway saw that the leader is dead"
    )


def _leader(cluster: Cluster, namespace: str) -> Object:
    """The only picker that is ready."""
    cluster.until(lambda: len(cluster.pods(namespace, EPP, ready=True)) == 1, "not exactly one picker leads")
    [pod] = cluster.pods(namespace, EPP, ready=True)
    return pod


def _is_another(cluster: Cluster, namespace: str, before: Object) -> bool:
    """Whether one is ready that is neither `before` nor what was started again in its place."""
    return any(_process(pod) != _process(before) for pod in cluster.pods(namespace, EPP, ready=True))


def _process(pod: Object) -> str:
    identity: str = pod["status"]["containerStatuses"][0]["containerID"]
    return identity


def _exist(cluster: Cluster, namespace: str, selector: str) -> int:
    """Those on their way out, too."""
    return len(cluster.api.list("v1", "Pod", namespace=namespace, labelSelector=selector))


def _delete(cluster: Cluster, pod: Object) -> None:
    cluster.api.delete("v1", "Pod", pod["metadata"]["name"], namespace=pod["metadata"]["namespace"])
