"""The gateways' manifests fit together and to the pickers': every name that one object says is that of another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from epp.cli.envoy_config import envoy_config
from tests.support import tools
from tests.support.manifests import MANIFESTS, ROOT, Object, built, of_kind

GATEWAYS = ROOT / "deploy" / "gateways"
WITH_POOL = ("istio", "kgateway", "gke")
ENVOYS = tuple(sorted(path.parent.name for path in GATEWAYS.glob("plain-envoy/*/envoy.yaml")))
ALL = (*WITH_POOL, "envoy-gateway", *(f"plain-envoy/{name}" for name in ENVOYS))


def objects_of(name: str) -> list[Object]:
    try:
        return built(GATEWAYS / name)
    except tools.ToolMissingError as missing:
        pytest.skip(str(missing))


def picker() -> Object:
    """The Service of the picker."""
    [service] = of_kind(built(MANIFESTS / "overlays" / "existing-pool"), "Service")
    return service


@pytest.mark.parametrize("name", WITH_POOL)
def test_route_pool_and_picker_name_each_other(name: str) -> None:
    objects = objects_of(name)
    [pool], [route], [gateway] = (of_kind(objects, kind) for kind in ("InferencePool", "HTTPRoute", "Gateway"))
    reference = pool["spec"]["endpointPickerRef"]

    assert [parent["name"] for parent in route["spec"]["parentRefs"]] == [gateway["metadata"]["name"]]
    [backend] = route["spec"]["rules"][0]["backendRefs"]
    assert (backend["group"], backend["kind"], backend["name"]) == (
        pool["apiVersion"].partition("/")[0],
        "InferencePool",
        pool["metadata"]["name"],
    )
    assert reference["name"] == picker()["metadata"]["name"]
    assert reference["port"]["number"] in {port["port"] for port in picker()["spec"]["ports"]}
    settings = [m["data"] for m in of_kind(built(MANIFESTS / "overlays" / "existing-pool"), "ConfigMap")]
    assert {"POOL_NAME": pool["metadata"]["name"]} in settings


@pytest.mark.parametrize("name", ALL)
def test_everything_is_in_the_pickers_namespace(name: str) -> None:
    assert {found["metadata"]["namespace"] for found in objects_of(name)} == {picker()["metadata"]["namespace"]}


def test_policies_are_for_the_pool_and_the_route_that_there_are() -> None:
    pool = ("inference.networking.k8s.io", "InferencePool", "vllm-llama")
    route = ("gateway.networking.k8s.io", "HTTPRoute", "vllm-llama")

    assert targets(objects_of("gke")) == [pool, pool]
    assert targets(objects_of("envoy-gateway")) == [route, route]


def targets(objects: list[Object]) -> list[tuple[str, str, str]]:
    specs = [found["spec"] for found in objects]
    references = [s["targetRef"] for s in specs if "targetRef" in s]
    references += [reference for s in specs for reference in s.get("targetRefs", [])]
    return [(reference["group"], reference["kind"], reference["name"]) for reference in references]


def test_names_of_the_picker_in_the_cluster_are_those_of_its_service() -> None:
    name = f"{picker()['metadata']['name']}.{picker()['metadata']['namespace']}.svc.cluster.local"
    [rule] = of_kind(objects_of("istio"), "DestinationRule")
    [backend] = of_kind(objects_of("envoy-gateway"), "Backend")

    assert rule["spec"]["host"] == name
    assert backend["spec"]["endpoints"][0]["fqdn"] == {"hostname": name, "port": 9002}
    for envoy in ENVOYS:
        config = yaml.safe_load((GATEWAYS / "plain-envoy" / envoy / "envoy.yaml").read_text())
        [epp] = [c for c in config["static_resources"]["clusters"] if c["name"] == "epp"]
        assert f"address: {name}" in yaml.safe_dump(epp)


@pytest.mark.parametrize("name", WITH_POOL)
def test_fail_open_changes_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "gateways").symlink_to(GATEWAYS)
    draft = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"gateways/{name}"],
        "components": ["gateways/fail-open"],
    }
    closed = objects_of(name)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(draft))

    opened = built(tmp_path)

    [pool] = of_kind(closed, "InferencePool")
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"
    pool["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
    assert opened == closed


@pytest.mark.parametrize("name", ENVOYS)
def test_envoys_configuration_is_what_the_command_in_the_kustomization_writes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(
        r"# epp envoy-config (.*) --out (\S+)", (GATEWAYS / "plain-envoy" / name / "kustomization.yaml").read_text()
    )
    assert found is not None
    monkeypatch.chdir(ROOT)
    written = tmp_path / "envoy.yaml"

    assert envoy_config([*shlex.split(found[1]), "--out", str(written)]) == 0

    assert yaml.safe_load(written.read_text()) == yaml.safe_load(Path(found[2]).read_text())


@pytest.mark.parametrize("name", ALL)
def test_every_gateway_has_a_page(name: str) -> None:
    page = name.partition("/")[0]

    assert f"deploy/gateways/{name}" in (ROOT / "docs" / "gateways" / f"{page}.md").read_text()
