"""Endpoints from a real API server: what it sends, what it refuses, and what is left while it is dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp.app import Service
from epp.config import Loaded, load_default, load_text
from epp.discovery.kubernetes import resources
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.credentials import Source
from epp.discovery.kubernetes.discovery import Wanted
from epp.discovery.kubernetes.errors import Forbidden, Unauthorized
from epp.discovery.kubernetes.watcher import Timing
from epp.server.health import LIVENESS, READINESS, Serving
from tests.support.accounts import make_account
from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.kube_api import Object
from tests.support.kube_discovery import DEADLINE_S, Running, running
from tests.support.kube_objects import make_objective, make_pool, make_rewrite
from tests.support.loopback import loopback_options
from tests.support.tools import ToolMissingError

POOL = "inference.networking.k8s.io/v1", "InferencePool"
PATIENT = Timing(first_retry_s=0.01, last_retry_s=0.2, absent_s=0.2, denied_s=0.2, silence_s=60.0, page_size=3)

GRPC_CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: vllmgrpc-parser}, {type: queue-scorer}]
requestHandler: {parsers: [{pluginRef: vllmgrpc-parser}]}
schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]
"""

# What docs/kubernetes.md says is needed.
POOLS_RULE = {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": ["list", "watch"]}
PODS_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
OBJECTS_RULES = [
    {"apiGroups": [group], "resources": ["inferenceobjectives", "inferencemodelrewrites"], "verbs": ["list", "watch"]}
    for group in ("inference.networking.x-k8s.io", "llm-d.ai")
]
ALL_RULES = [POOLS_RULE, PODS_RULE, *OBJECTS_RULES]


def give_rights(plane: ControlPlane, namespace: str, rules: Iterable[Object]) -> Path:
    """A service account with a Role of these rules; the kubeconfig that has its token."""
    rbac = "rbac.authorization.k8s.io"
    for obj in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "epp"}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "epp"}, "rules": list(rules)},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "epp"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "epp"},
            "subjects": [{"kind": "ServiceAccount", "name": "epp"}],
        },
    ):
        plane.api.apply(obj, namespace=namespace)
    token = plane.api.service_account_token("epp", namespace=namespace)
    return plane.write_kubeconfig(f"epp-{namespace}", token, namespace=namespace)


def pool_in(namespace: str, *ports: int, **labels: str) -> Object:
    return make_pool("pool", *ports, labels=labels or {"app": "vllm"}, namespace=namespace)


def add_pod(plane: ControlPlane, namespace: str, number: int, **options: Any) -> None:
    options.setdefault("labels", {"app": "vllm"})
    plane.api.create_pod(f"p{number}", namespace=namespace, ip=f"127.9.0.{number}", **options)


def addresses(*numbers: int, port: int = 8000) -> list[str]:
    return [f"127.9.0.{number}:{port}" for number in numbers]


@asynccontextmanager
async def followed(
    plane: ControlPlane, namespace: str, *, rules: Iterable[Object] = ALL_RULES, timing: Timing = PATIENT
) -> AsyncIterator[Running]:
    kubeconfig = await asyncio.to_thread(give_rights, plane, namespace, rules)
    async with running(kubeconfig, Wanted(namespace, pool_name="pool"), timing) as run:
        yield run


@pytest.fixture
def plane(control_plane: ControlPlane) -> ControlPlane:
    control_plane.install_crds(*OFFICIAL_CRDS)
    return control_plane


@pytest.fixture(scope="module")
def mortal() -> Iterator[ControlPlane]:
    """An API server that tests kill and pause, one after the other, and bring back."""
    try:
        prepared = ControlPlane()
    except ToolMissingError as missing:
        pytest.skip(str(missing))
    with prepared as plane:
        plane.install_crds(*OFFICIAL_CRDS)
        yield plane


async def test_pods_and_their_pool_are_followed(plane: ControlPlane, namespace: str) -> None:
    api = plane.api
    api.create(pool_in(namespace))
    for number in range(1, 8):
        add_pod(plane, namespace, number)
    add_pod(plane, namespace, 9, labels={"app": "other"})

    async with followed(plane, namespace) as run:
        await run.until(lambda: run.ready)
        assert run.addresses == addresses(*range(1, 8))

        api.set_pod_status("p1", namespace=namespace, ip="127.9.0.1", ready=False)
        api.delete("v1", "Pod", "p2", namespace=namespace, grace_s=0)
        api.patch("v1", "Pod", "p3", {"metadata": {"labels": {"app": "other"}}}, namespace=namespace)
        add_pod(plane, namespace, 8)
        await run.endpoints(*addresses(4, 5, 6, 7, 8))

        ports = [{"number": 8000}, {"number": 8001}]
        api.patch(*POOL, "pool", {"spec": {"targetPorts": ports}}, namespace=namespace)
        await run.endpoints(*addresses(4, 5, 6, 7, 8), *addresses(4, 5, 6, 7, 8, port=8001))
        for number in (4, 5, 6, 7):
            annotations = {"llm-d.ai/active-ports": "8001"}
            api.patch("v1", "Pod", f"p{number}", {"metadata": {"annotations": annotations}}, namespace=namespace)
        await run.endpoints(*addresses(8), *addresses(4, 5, 6, 7, 8, port=8001))

        selector = {"matchLabels": {"app": "other"}}
        api.patch(*POOL, "pool", {"spec": {"selector": selector, "targetPorts": ports[:1]}}, namespace=namespace)
        await run.endpoints(*addresses(3, 9))
        assert run.health == [True]

        api.delete(*POOL, "pool", namespace=namespace)
        await run.until(lambda: not run.ready)
        assert run.addresses == []
        api.create(pool_in(namespace))
        await run.until(lambda: run.ready)
        assert run.addresses == addresses(8)


async def test_objectives_and_rewrites_of_both_groups_are_followed(plane: ControlPlane, namespace: str) -> None:
    api = plane.api
    api.create(pool_in(namespace))
    x_group = "inference.networking.x-k8s.io"
    for obj in (
        make_objective("batch", -1),
        make_objective("chat", 7, group=x_group),
        make_objective("foreign", 9, pool="other"),
        make_rewrite("canary", "food", "food-v2", group=x_group),
    ):
        obj["metadata"].pop("namespace")
        api.create(obj, namespace=namespace)

    async with followed(plane, namespace) as run:
        datastore = run.datastore
        await run.until(lambda: datastore.rewrite("food") == ("canary", "food-v2"))
        await run.until(lambda: len(datastore.objectives) == 2)
        assert [datastore.priority_of(name) for name in ("batch", "chat", "foreign")] == [-1, 7, 0]

        api.delete("llm-d.ai/v1alpha2", "InferenceObjective", "batch", namespace=namespace)

        await run.until(lambda: datastore.priority_of("batch") == 0)


async def test_definitions_may_come_late(own_control_plane: ControlPlane) -> None:
    plane = own_control_plane
    plane.create_namespace("late")
    add_pod(plane, "late", 1)

    async with followed(plane, "late") as run:
        await run.until(lambda: any("has no kind InferencePool" in note for note in run.discovery.notes()))

        await asyncio.to_thread(plane.install_crds, *OFFICIAL_CRDS)
        plane.api.create(pool_in("late"))
        plane.api.create(make_objective("batch", -1) | {"metadata": {"name": "batch"}}, namespace="late")

        await run.endpoints(*addresses(1))
        await run.until(lambda: run.datastore.priority_of("batch") == -1)
        await run.until(lambda: run.ready)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (POOLS_RULE, "InferencePool"),
        (PODS_RULE, "Pod"),
        (OBJECTS_RULES[0], "InferenceObjective.inference.networking.x-k8s.io"),
        (OBJECTS_RULES[1], "InferenceModelRewrite.llm-d.ai"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_every_right_is_needed_and_named_when_it_is_missing(
    plane: ControlPlane, namespace: str, rule: Object, kind: str, verb: str
) -> None:
    left = [{**r, "verbs": [v for v in r["verbs"] if r is not rule or v != verb]} for r in ALL_RULES]
    group, plural = rule["apiGroups"][0], f"{kind.partition('.')[0].lower()}s"
    missing = f'a Role in namespace {namespace}: apiGroups ["{group}"], resources ["{plural}"], verbs ["{verb}"]'
    plane.api.create(pool_in(namespace))
    add_pod(plane, namespace, 1)

    async with followed(plane, namespace, rules=left) as run:
        # Until the server knows of the role, everything is missing.
        await run.until(lambda: any(f"{kind}: " in note and missing in note for note in run.discovery.notes()))

        await asyncio.to_thread(give_rights, plane, namespace, ALL_RULES)

        await run.until(lambda: run.discovery.notes() == [])
        await run.endpoints(*addresses(1))


async def test_inside_a_pod_each_request_has_the_token_that_is_mounted_by_then(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The kubelet replaces the token, and the one before expires; watches that are open do not mind."""
    first = make_account(plane, "first", namespace=namespace, rules=[PODS_RULE])
    second = make_account(plane, "second", namespace=namespace)
    mounted = {"token": first, "ca.crt": plane.ca, "namespace": namespace}
    for name, text in mounted.items():
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": plane.host, "KUBERNETES_SERVICE_PORT": str(plane.port)}
    api = await Api.connect(Source(environ=environ, service_account_dir=tmp_path))
    pods = resources.pods(namespace)
    try:
        assert (await api.page(pods)).items == []

        (tmp_path / "token").write_text(second)
        with pytest.raises(Forbidden, match="not allowed to list pods"):
            await api.page(pods)

        (tmp_path / "token").write_text("expired")
        with pytest.raises(Unauthorized):
            await api.page(pods)

        (tmp_path / "token").write_text(first)
        assert (await api.page(pods)).items == []
    finally:
        await api.close()


async def test_a_killed_api_server_takes_nothing_along(mortal: ControlPlane) -> None:
    plane, here = mortal, mortal.create_namespace("killed")
    plane.api.create(pool_in(here))
    for number in (1, 2, 3):
        add_pod(plane, here, number)

    async with followed(plane, here) as run:
        await run.until(lambda: run.ready and run.addresses == addresses(1, 2, 3))

        plane.kill_api_server()
        try:
            await run.until(lambda: any("cannot be reached" in note for note in run.discovery.notes()))
            assert run.addresses == addresses(1, 2, 3)
            assert run.ready
        finally:
            plane.start_api_server()  # here: it ends with the thread that starts it
        plane.api.delete("v1", "Pod", "p1", namespace=here, grace_s=0)
        add_pod(plane, here, 4)
        await run.endpoints(*addresses(2, 3, 4))
        await run.until(lambda: run.discovery.notes() == [])
        assert run.health == [True]


async def test_an_api_server_that_stands_still_is_noticed_and_made_up_for(mortal: ControlPlane) -> None:
    plane, here = mortal, mortal.create_namespace("paused")
    plane.api.create(pool_in(here))
    add_pod(plane, here, 1)
    timing = Timing(first_retry_s=0.01, last_retry_s=0.2, silence_s=4.0)

    async with followed(plane, here, timing=timing) as run:
        await run.until(lambda: run.ready and run.addresses == addresses(1))

        plane.pause_api_server()
        try:
            await run.until(lambda: any("Pod: as it was" in note for note in run.discovery.notes()))
            assert run.addresses == addresses(1)
        finally:
            plane.resume_api_server()
        add_pod(plane, here, 2)

        await run.endpoints(*addresses(1, 2))


@asynccontextmanager
async def service_of(plane: ControlPlane, namespace: str, loaded: Loaded) -> AsyncIterator[tuple[Service, str]]:
    """A service that follows the pool in `namespace`, and the URL that says whether it is ready."""
    kubeconfig = await asyncio.to_thread(give_rights, plane, namespace, ALL_RULES)
    options = loopback_options(
        pool_name="pool", pool_namespace=namespace, kubeconfig=str(kubeconfig), metrics_endpoint_auth=False
    )
    service = Service(options, loaded)
    await service.start()
    try:
        yield service, f"http://127.0.0.1:{service.metrics_port}/readyz"
    finally:
        await service.stop()


async def test_the_service_is_ready_while_there_is_a_pool_and_says_what_it_does_not_hear(
    mortal: ControlPlane,
) -> None:
    plane, here = mortal, mortal.create_namespace("served")
    add_pod(plane, here, 1)
    async with service_of(plane, here, load_default()) as (service, readyz), aiohttp.ClientSession() as http:
        await _until_says(http, readyz, 503, "there is no InferencePool pool in namespace served")
        assert service.health.check(READINESS) is Serving.NOT_SERVING

        plane.api.create(pool_in(here))
        await _until_says(http, readyz, 200, "ok")
        assert [e.host_port for e in service.datastore.endpoints] == addresses(1)

        plane.kill_api_server()
        try:
            await _until_says(http, readyz, 200, "kubernetes: Pod: as it was")
        finally:
            plane.start_api_server()  # here: it ends with the thread that starts it
        page = await (await http.get(readyz.replace("readyz", "metrics"))).text()
        assert 'llm_epp_kubernetes_age_seconds{kind="Pod"}' in page
        assert [e.host_port for e in service.datastore.endpoints] == addresses(1)


async def test_a_pool_that_speaks_what_the_parser_does_not_keeps_requests_away(
    plane: ControlPlane, namespace: str
) -> None:
    """gRPC needs HTTP/2: a gateway that speaks HTTP/1.1 to the Pods could not pass such requests on."""
    plane.api.create(pool_in(namespace))
    add_pod(plane, namespace, 1)
    loaded = load_text(GRPC_CONFIG, "grpc.yaml")
    async with service_of(plane, namespace, loaded) as (service, readyz), aiohttp.ClientSession() as http:
        await _until_says(http, readyz, 503, "plugin vllmgrpc-parser: the pool's appProtocol is http")
        assert service.health.check(READINESS) is Serving.NOT_SERVING
        assert service.health.check(LIVENESS) is Serving.SERVING

        spec = {"appProtocol": "kubernetes.io/h2c"}
        plane.api.patch(*POOL, "pool", {"spec": spec}, namespace=namespace)
        await _until_says(http, readyz, 200, "ok")
        assert service.health.check(READINESS) is Serving.SERVING


async def _until_says(http: aiohttp.ClientSession, url: str, status: int, text: str) -> None:
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        async with http.get(url) as answer:
            said = await answer.text()
            if answer.status == status and text in said:
                return
        assert time.monotonic() < give_up_at, f"{url} says {said!r}"
        await asyncio.sleep(0.01)
