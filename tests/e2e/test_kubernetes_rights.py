"""The rights that manifests and charts give are enough, and none is idle: without any one of them the EPP misses something."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml

from epp.demo.processes import Children
from tests.support.accounts import METRICS_RULES, account_kubeconfig, make_account
from tests.support.chart_cases import gie
from tests.support.charts import Case, render
from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.logs import log_records
from tests.support.manifests import MANIFESTS
from tests.support.stack import Epp, eventually, start_epp
from tests.support.tools import HELM, ToolMissingError, find

pytestmark = [pytest.mark.e2e, pytest.mark.kube]

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
"""
DEADLINE_S = 60.0


class Right(NamedTuple):
    """One verb on one resource, in a namespace or in the whole cluster."""

    group: str
    resource: str
    verb: str
    everywhere: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"

    @property
    def rule(self) -> dict[str, Any]:
        return {"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb]}


def rights_in(objects: Iterator[Any] | list[Any]) -> set[Right]:
    """Those of all Roles and ClusterRoles among them."""
    return {
        Right(group, resource, verb, everywhere=found["kind"] == "ClusterRole")
        for found in objects
        if found and found["kind"] in ("Role", "ClusterRole")
        for rule in found["rules"]
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
        for verb in rule["verbs"]
    }


def written() -> list[Right]:
    """The rights that the manifests hold, in their most demanding overlay."""
    files = (
        "base/service-account.yaml",
        "components/leader-election/lease-role.yaml",
        "components/metrics-auth/cluster-role.yaml",
    )
    objects = [found for file in files for found in yaml.safe_load_all((MANIFESTS / file).read_text())]
    return sorted(rights_in(objects))


RIGHTS = written()


@asynccontextmanager
async def picker(plane: ControlPlane, namespace: str, folder: Path, rights: list[Right]) -> AsyncIterator[Epp]:
    """`epp run` for a pool with a Pod, as the high-availability overlay starts it, by an account that has just these rights."""
    plane.install_crds(*OFFICIAL_CRDS)
    plane.api.apply(POOL, namespace=namespace)
    plane.api.create_pod("a", namespace=namespace, ip="127.0.9.1", labels={"app": "llama"})
    kubeconfig = account_kubeconfig(
        plane,
        "epp",
        namespace=namespace,
        rules=[right.rule for right in rights if not right.everywhere],
        cluster_rules=[right.rule for right in rights if right.everywhere],
    )
    flags = ("--pool-name=llama", f"--pool-namespace={namespace}", f"--kubeconfig={kubeconfig}")
    async with Children(folder) as children:
        yield await start_epp(children, *flags, "--ha-enable-leader-election", "--metrics-endpoint-auth=true")


async def metrics_status(epp: Epp, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://{epp.metrics}/metrics") as response,
    ):
        return response.status


def complaints(epp: Epp) -> str:
    """Everything that the log says is missing."""
    texts = [json.dumps(record, ensure_ascii=False) for record in log_records(epp.child.stderr_path)]
    return "\n".join(text for text in texts if "what is missing is" in text)


async def test_with_the_rights_of_the_manifests_nothing_is_missing(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    reader = make_account(control_plane, "prometheus", namespace=namespace, cluster_rules=METRICS_RULES)
    async with picker(control_plane, namespace, tmp_path, RIGHTS) as epp:

        async def ready() -> tuple[int, str]:
            return await epp.page("/readyz")

        await eventually(ready, lambda answer: answer[0] == 200, deadline_s=DEADLINE_S)
        control_plane.api.create_pod("b", namespace=namespace, ip="127.0.9.2", labels={"app": "llama"})
        await eventually(lambda: log_of_endpoints(epp), lambda count: count == 2, deadline_s=DEADLINE_S)
        metrics = await metrics_status(epp, reader)

        assert metrics == 200
        assert complaints(epp) == ""


async def log_of_endpoints(epp: Epp) -> int:
    changes = epp.log("endpoints changed")
    return int(changes[-1]["endpoints"]) if changes else 0


@pytest.mark.parametrize("taken", [r for r in RIGHTS if not r.everywhere], ids=str)
async def test_without_one_right_of_the_namespace_the_epp_names_it(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, taken: Right
) -> None:
    async with picker(control_plane, namespace, tmp_path, [r for r in RIGHTS if r != taken]) as epp:
        named = f'apiGroups ["{taken.group}"], resources ["{taken.resource}"], verbs ["{taken.verb}"]'

        async def missing() -> str:
            return complaints(epp).replace('\\"', '"')

        await eventually(missing, lambda text: named in text, deadline_s=DEADLINE_S)


@pytest.mark.parametrize("taken", [r for r in RIGHTS if r.everywhere], ids=str)
async def test_without_one_right_of_the_cluster_nobody_can_read_metrics(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, taken: Right
) -> None:
    reader = make_account(control_plane, "prometheus", namespace=namespace, cluster_rules=METRICS_RULES)
    async with picker(control_plane, namespace, tmp_path, [r for r in RIGHTS if r != taken]) as epp:
        assert await metrics_status(epp, reader) == 500


def test_charts_give_the_rights_of_the_manifests() -> None:
    try:
        find(HELM)
    except ToolMissingError as missing:
        pytest.skip(str(missing))

    given = rights_in(render(Case("inferencepool", (), gie(replicas=2))).objects)

    assert given == set(RIGHTS)
