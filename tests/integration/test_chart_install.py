"""The Helm charts at a real API server: what it says to every object, and a release from its installation to its end."""

from __future__ import annotations

import shlex
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.support.chart_cases import CASES, LABELS, gie, llm_d, rendered
from tests.support.charts import RELEASE, ROOT, Case, Object
from tests.support.control_plane import ControlPlane, ControlPlaneError
from tests.support.foreign_kinds import write_definitions
from tests.support.pages import blocks, commands
from tests.support.tools import HELM, find_or_skip

CRDS: Final = sorted((ROOT / "deploy" / "crds").glob("infer*.yaml"))
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}
EVERYTHING: Final[Object] = {
    **gie(
        replicas=2,
        monitoring={"prometheus": {"enabled": True}},
        podDisruptionBudget={"enabled": True},
        networkPolicy={"enabled": True},
        latencyPredictor={"enabled": True, "mode": "sidecars"},
        sidecar={"enabled": True, "mode": "service", "failOpen": True, "autoscaling": {"enabled": True}},
        extraServicePorts=[{"name": "http", "port": 8081, "targetPort": 8081}],
    ),
    "provider": {"name": "istio"},
    "experimentalHttpRoute": {"enabled": True},
    "inferenceObjectives": [{"name": "batch", "priority": -1}],
}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    """An API server that knows every kind that the charts have."""
    find_or_skip(HELM)
    with tempfile.TemporaryDirectory() as folder:
        control_plane.install_crds(*CRDS, write_definitions(Path(folder)))
    return control_plane


class Release:
    """One release in a namespace of its own."""

    def __init__(self, cluster: ControlPlane, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._folder = folder

    def install(self, case: Case) -> str:
        """Returns what helm prints."""
        return self._helm("install", RELEASE, *case.arguments(self._folder))

    def upgrade(self, case: Case) -> str:
        return self._helm("upgrade", RELEASE, *case.arguments(self._folder))

    def uninstall(self) -> None:
        self._helm("uninstall", RELEASE)

    def deployment(self) -> Object:
        return self.cluster.api.get("apps/v1", "Deployment", f"{RELEASE}-epp", namespace=self.namespace)

    def objects(self) -> list[str]:
        """Everything in the namespace but events, and the cluster-wide rights that name it."""
        kinds = self.cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o=name").split()
        of_interest = ",".join(kind for kind in kinds if not kind.startswith("events"))
        within = self.cluster.kubectl("get", of_interest, f"--namespace={self.namespace}", "-o=name").split()
        cluster_wide = self.cluster.kubectl("get", "clusterroles,clusterrolebindings", "-o=name").split()
        return sorted([*within, *(name for name in cluster_wide if self.namespace in name)])

    def _helm(self, *arguments: str) -> str:
        return self.cluster.helm(*arguments, f"--namespace={self.namespace}")


@pytest.fixture
def release(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Release:
    return Release(cluster, namespace, tmp_path)


# --- what the server says ------------------------------------------------------------------------------------------------


def test_the_server_takes_every_object_as_it_is_written(cluster: ControlPlane, namespace: str) -> None:
    """`strict`: a field that the kind does not have is refused, where the server else drops it silently."""
    texts = {yaml.safe_dump(made) for name in CASES for made in rendered(name).objects}
    moved = [text.replace("namespace: models", f"namespace: {namespace}") for text in sorted(texts)]

    said = cluster.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-o=name", "-f=-", stdin="---\n".join(moved)
    )

    assert len(said.split()) == len(moved)


@pytest.mark.parametrize(
    "name", ["labels alone", "gie-standalone", "gie-latency, sidecars", "llm-d-gateway, tokenizer", "replicas"]
)
def test_pods_are_admitted_where_pod_security_is_restricted(name: str, cluster: ControlPlane, namespace: str) -> None:
    cluster.api.patch("v1", "Namespace", namespace, {"metadata": {"labels": RESTRICTED}})
    pod = deepcopy(rendered(name).one("Deployment", f"{RELEASE}-epp")["spec"]["template"])
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] |= {"name": "pod", "namespace": namespace}

    assert cluster.kubectl("create", "--dry-run=server", "-o=name", "-f=-", stdin=yaml.safe_dump(pod)) == "pod/pod\n"

    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(ControlPlaneError, match="runAsNonRoot"):
        cluster.kubectl("create", "--dry-run=server", "-f=-", stdin=yaml.safe_dump(pod))


# --- a release -----------------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_release_with_everything(release: Release) -> None:
    before = release.objects()

    release.install(Case("standalone", (), EVERYTHING))
    between = release.objects()
    release.uninstall()

    assert {
        "deployment.apps/pool-proxy",
        "horizontalpodautoscaler.autoscaling/pool-proxy",
        "service/pool-model-servers",
        "servicemonitor.monitoring.coreos.com/pool-epp-monitor",
    } <= set(between)
    assert release.objects() == before == []


def test_an_upgrade_takes_away_what_values_do_not_ask_for_any_more(release: Release) -> None:
    release.install(Case("inferencepool", (), EVERYTHING))
    release.upgrade(Case("inferencepool", (), LABELS))
    upgraded = release.objects()
    release.uninstall()
    release.install(Case("inferencepool", (), LABELS))

    assert [name for name in upgraded if "helm.release" not in name] == [
        name for name in release.objects() if "helm.release" not in name
    ]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Case("inferencepool", ("gie-inferencepool",)), Case("inferencepool", ("llm-d-gateway",))),
        (Case("standalone", ("llm-d-standalone",)), Case("standalone", ("gie-standalone",))),
        (Case("inferencepool", ("slo-guide",)), Case("standalone", (), LABELS)),
    ],
    ids=["gie to llm-d", "llm-d to gie", "one chart to the other"],
)
def test_values_of_one_kind_follow_those_of_another(first: Case, then: Case, release: Release) -> None:
    """What a Deployment selects by cannot be changed, and the charts of GIE and of llm-d select by different labels."""
    release.install(first)
    labels = release.deployment()["spec"]["selector"]["matchLabels"]

    release.upgrade(then)

    service = release.cluster.api.get("v1", "Service", f"{RELEASE}-epp", namespace=release.namespace)
    assert service["spec"]["selector"] == release.deployment()["spec"]["selector"]["matchLabels"] == labels
    assert labels.items() <= release.deployment()["spec"]["template"]["metadata"]["labels"].items()


def test_a_rollback_brings_back_what_was_there(release: Release) -> None:
    release.install(Case("inferencepool", (), gie(flags={"v": 2})))
    release.upgrade(Case("inferencepool", (), gie(flags={"v": 5})))

    release.cluster.helm("rollback", RELEASE, f"--namespace={release.namespace}")

    assert "--v=2" in release.deployment()["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_commands_of_the_page_work_one_after_the_other(
    cluster: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "charts.md"
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (values,) = blocks(page, "yaml")
    (tmp_path / "values.yaml").write_text(values.text)
    monkeypatch.chdir(tmp_path)

    for command in commands(page):
        program, *arguments = shlex.split(command.text)
        assert program == "helm"
        cluster.helm(*arguments)

    assert cluster.helm("list", "--namespace=inference", "--short") == ""
    assert cluster.kubectl("get", "deployments,inferencepools", "--namespace=inference", "-o=name") == ""


# --- what is said --------------------------------------------------------------------------------------------------------


def test_notes_tell_where_to_go(release: Release) -> None:
    said = release.install(Case("inferencepool", (), LABELS))

    assert f"pool-epp in {release.namespace} picks endpoints among pods with app=vllm, ports 8000." in said
    assert "Name InferencePool pool in an HTTPRoute's backendRefs." in said
    assert "NOTE:" not in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            gie(latencyPredictor={"enabled": True, "predictionServers": {"count": 3}}),
            "inferenceExtension.latencyPredictor.predictionServers has no effect: the EPP predicts in its own process",
        ),
        (
            llm_d(latencyPredictor={"trainingServer": {"port": 8100}}),
            "router.latencyPredictor.trainingServer has no effect: latencyPredictor.enabled is false",
        ),
        (
            {**LABELS, "provider": {"gke": {"preferredBackends": {"enabled": True}}}},
            "provider.gke.preferredBackends.enabled has no effect: it is for an InferencePool with provider.name gke",
        ),
        (
            llm_d(epp={"autoscaling": {"enabled": True}, "replicas": 2}),
            "router.epp.replicas has no effect: autoscaling has minReplicas and maxReplicas",
        ),
        (
            gie(sidecar={"enabled": True, "autoscaling": {"enabled": True}}),
            "inferenceExtension.sidecar.autoscaling.enabled has no effect: it is for a proxy with mode service",
        ),
        (
            gie(image={"registry": "registry.k8s.io", "repository": "gateway-api-inference-extension/epp", "tag": "v1.5.0"}),
            "the image registry.k8s.io/gateway-api-inference-extension/epp:v1.5.0 is the Go EPP's",
        ),
        (
            gie(latencyPredictor={"enabled": True, "mode": "sidecars", "trainingServer": {"image": {"repository": "t"}}}),
            "trainingServer.image is set, so t runs its own command and not epp-predictor",
        ),
        (gie(existingConfigMap="a", pluginsCustomConfig={"b.yaml": "c"}), "inferenceExtension.pluginsCustomConfig has no"),
    ],
)  # fmt: skip
def test_notes_name_values_that_do_nothing(values: Object, said: str, release: Release) -> None:
    assert f"NOTE: {said}" in release.install(Case("inferencepool", (), values))
