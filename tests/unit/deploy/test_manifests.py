"""What the overlays come to, read without a cluster: flags that exist, nobody with more rights than needed, times that fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from epp.cli.envoy_config import envoy_config
from epp.cli.options import parse
from epp_predictor import cli as predictor
from epp_predictor.servers.variables import PREDICTION, TRAINING
from tests.support import tools
from tests.support.manifests import MANIFESTS, OVERLAYS, ROOT, Object, built, of_kind

PICKERS = tuple(name for name in OVERLAYS if name != "monitoring")
LAST_GRACE_S = 5  # what a picker leaves to requests under way after its drain time
SAVING_S = 5


@pytest.fixture(params=PICKERS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return objects_of(request.param)


def objects_of(overlay: str) -> list[Object]:
    try:
        return built(MANIFESTS / "overlays" / overlay)
    except tools.ToolMissingError as missing:
        pytest.skip(str(missing))


def pod_of(objects: list[Object]) -> Object:
    [deployment] = of_kind(objects, "Deployment")
    pod: Object = deployment["spec"]["template"]
    return pod


def containers(objects: list[Object]) -> dict[str, Object]:
    return {container["name"]: container for container in pod_of(objects)["spec"]["containers"]}


def environment(container: Object, objects: list[Object]) -> dict[str, str]:
    """As the kubelet makes it, in a namespace `inference`."""
    maps = {found["metadata"]["name"]: found["data"] for found in of_kind(objects, "ConfigMap")}
    values = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            values[variable["name"]] = maps[reference["name"]][reference["key"]]
        elif "fieldRef" in source:
            values[variable["name"]] = {"metadata.namespace": "inference", "metadata.name": "epp-0"}[
                source["fieldRef"]["fieldPath"]
            ]
        else:
            values[variable["name"]] = variable["value"]
    return values


def arguments(container: Object, objects: list[Object]) -> list[str]:
    """With variables filled in. A variable that is not there stays, as with the kubelet."""
    values = environment(container, objects)
    return [re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), argument) for argument in container["args"]]


# --- what the containers are told ------------------------------------------------------------------------------------------


def test_the_pickers_flags_are_flags(objects: list[Object]) -> None:
    picker = containers(objects)["epp"]
    given = arguments(picker, objects)

    options = parse(given, environment(picker, objects))

    assert not [argument for argument in given if "$(" in argument]
    assert list(options.warnings) == []
    assert options.config_file == "/config/epp.yaml"
    assert options.pool_namespace == "inference"


def test_where_endpoints_come_from() -> None:
    for overlay in PICKERS:
        objects = objects_of(overlay)
        picker = containers(objects)["epp"]
        options = parse(arguments(picker, objects), environment(picker, objects))

        if overlay == "standalone":
            assert (options.endpoint_selector, options.endpoint_target_ports) == ("app=vllm-llama", (8000,))
        else:
            assert options.pool_name == "vllm-llama"


def test_the_predictors_servers_know_their_flags_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    found = containers(objects_of("predictor"))

    for name, variables in (("training-server", TRAINING), ("prediction-server-1", PREDICTION)):
        program, command = found[name]["command"]
        assert program == "epp-predictor"
        with pytest.raises(SystemExit):
            predictor.main([command, "--help"])
        known = capsys.readouterr().out
        assert all(argument.partition("=")[0] in known for argument in found[name]["args"])
        assert {variable["name"] for variable in found[name]["env"]} <= {variable.name for variable in variables}


def test_the_pages_that_probes_ask_for_are_on_ports_that_the_containers_open(objects: list[Object]) -> None:
    for container in containers(objects).values():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for kind in ("livenessProbe", "readinessProbe"):
            probe = container[kind]
            if "grpc" in probe:
                assert probe["grpc"] == {"port": ports["grpc-health"], "service": kind.removesuffix("Probe").lower()}
            else:
                assert probe["httpGet"]["port"] in ports


def test_services_lead_to_ports_that_are_open(objects: list[Object]) -> None:
    open_ports = {port["name"] for container in containers(objects).values() for port in container["ports"]}
    [service] = of_kind(objects, "Service")
    [policy] = of_kind(objects, "NetworkPolicy")

    assert {port["targetPort"] for port in service["spec"]["ports"]} <= open_ports
    [allowed] = policy["spec"]["ingress"]
    assert {port["port"] for port in allowed["ports"]} <= open_ports
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["port"] for port in allowed["ports"]}


# --- who is meant ----------------------------------------------------------------------------------------------------------


def test_everything_that_selects_means_the_pickers_pods_and_no_others(objects: list[Object]) -> None:
    labels = pod_of(objects)["metadata"]["labels"].items()

    selectors = list(selectors_of(objects))

    assert len(selectors) >= 4
    for selector in selectors:
        assert selector.items()
        assert selector.items() <= labels


def selectors_of(objects: list[Object]) -> Iterator[dict[str, str]]:
    [service] = of_kind(objects, "Service")
    yield service["spec"]["selector"]
    [deployment] = of_kind(objects, "Deployment")
    yield deployment["spec"]["selector"]["matchLabels"]
    for constraint in pod_of(objects)["spec"].get("topologySpreadConstraints", []):
        yield constraint["labelSelector"]["matchLabels"]
    [budget] = of_kind(objects, "PodDisruptionBudget")
    yield budget["spec"]["selector"]["matchLabels"]
    [policy] = of_kind(objects, "NetworkPolicy")
    yield policy["spec"]["podSelector"]["matchLabels"]


# --- rights ----------------------------------------------------------------------------------------------------------------


def test_rights_are_to_read_in_the_own_namespace(objects: list[Object]) -> None:
    readable = {"pods", "inferencepools", "inferenceobjectives", "inferencemodelrewrites"}

    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            if role["metadata"]["name"] == "epp":
                assert set(rule["verbs"]) == {"list", "watch"}
                assert set(rule["resources"]) <= readable
            else:
                assert set(rule["resources"]) == {"leases"}


def test_only_reviews_are_asked_for_in_the_whole_cluster(objects: list[Object]) -> None:
    rules = [rule for role in of_kind(objects, "ClusterRole") for rule in role["rules"]]

    assert all(rule["verbs"] == ["create"] for rule in rules)
    assert {resource for rule in rules for resource in rule["resources"]} <= {"tokenreviews", "subjectaccessreviews"}
    asks = "--metrics-endpoint-auth=true" in containers(objects)["epp"]["args"]
    assert asks == bool(rules)


# --- times and sizes -------------------------------------------------------------------------------------------------------


def test_there_is_time_to_drain(objects: list[Object]) -> None:
    found = containers(objects)
    options = parse(arguments(found["epp"], objects), {})
    grace_s = pod_of(objects)["spec"]["terminationGracePeriodSeconds"]

    assert pause_s(found["epp"]) + options.drain_timeout_s + LAST_GRACE_S + SAVING_S <= grace_s
    if "envoy" in found:
        # Envoy goes while there is still somebody to ask.
        assert 0 < pause_s(found["envoy"]) < options.drain_timeout_s


def pause_s(container: Object) -> float:
    """How long a container goes on before it is told to stop."""
    handler = container.get("lifecycle", {}).get("preStop", {})
    if "sleep" in handler:
        return float(handler["sleep"]["seconds"])
    return float(handler["exec"]["command"][1]) if handler else 0.0


def test_memory_is_bounded_and_cpu_is_asked_for(objects: list[Object]) -> None:
    for container in containers(objects).values():
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert set(container["resources"]["limits"]) == {"memory"}
    assert all("sizeLimit" in v["emptyDir"] for v in pod_of(objects)["spec"]["volumes"] if "emptyDir" in v)


# --- files that are made from others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "example"), [("base/epp.yaml", "default.yaml"), ("components/predictor/epp.yaml", "latency-slo.yaml")]
)
def test_configurations_are_the_documented_examples(file: str, example: str) -> None:
    assert (MANIFESTS / file).read_text() == (ROOT / "config" / example).read_text()


def test_the_picker_reads_the_configuration_that_its_overlay_brings() -> None:
    for overlay in PICKERS:
        [config] = [m for m in of_kind(objects_of(overlay), "ConfigMap") if m["metadata"]["name"] == "epp-config"]
        folder = "components/predictor" if overlay == "predictor" else "base"
        assert config["data"] == {"epp.yaml": (MANIFESTS / folder / "epp.yaml").read_text()}


def test_envoys_configuration_is_what_the_command_in_the_kustomization_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MANIFESTS / "components" / "envoy"
    found = re.search(r"# epp envoy-config (.*) --out (\S+)", (folder / "kustomization.yaml").read_text())
    assert found is not None
    monkeypatch.chdir(MANIFESTS)
    written = tmp_path / "envoy.yaml"

    assert envoy_config([*shlex.split(found[1]), "--out", str(written)]) == 0

    assert without_comments(written) == without_comments(MANIFESTS / found[2])


def without_comments(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_every_file_is_part_of_a_kustomization() -> None:
    for kustomization in sorted(MANIFESTS.rglob("kustomization.yaml")):
        text = kustomization.read_text()
        for file in kustomization.parent.iterdir():
            assert file.name == "kustomization.yaml" or file.name in text, file
