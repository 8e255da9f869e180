"""The Helm charts, rendered: what every way to write values comes to, and what is refused. No cluster is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from epp.app import make_registry
from epp.cli.options import GROUPS, parse
from epp.config import build, load_text
from epp.demo.envoy import EnvoyMissingError, validate
from epp.envoy import BodyMode, BootstrapOptions, Upstream, bootstrap
from epp_plugins.registry import BUILTIN
from tests.support import chart_cases
from tests.support.chart_cases import CASES, LABELS, NO_POOL, SIDECARS, TWO_SERVERS, gie, llm_d
from tests.support.chart_docs import known_places
from tests.support.charts import CHARTS, Case, ChartError, Object, Rendered, render, run_helm
from tests.support.configs import make_environment
from tests.support.tools import ToolMissingError

KNOWN_FLAGS: Final = {flag.name for group in GROUPS for flag in group.flags}


@pytest.fixture(scope="module")
def rendered() -> Mapping[str, Rendered]:
    """Every case, once."""
    try:
        return {name: chart_cases.rendered(name) for name in CASES}
    except ToolMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def helm() -> None:
    """Tests with it are skipped where there is no helm."""
    try:
        run_helm("version")
    except ToolMissingError as missing:
        pytest.skip(str(missing))


# --- what is made --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_values_come_to_the_objects_that_they_are_known_for(name: str, rendered: Mapping[str, Rendered]) -> None:
    assert rendered[name].names == sorted(CASES[name][1].objects)


@pytest.mark.parametrize("name", CASES)
def test_the_epp_is_started_with_known_arguments(name: str, rendered: Mapping[str, Rendered]) -> None:
    assert tuple(rendered[name].container()["args"]) == CASES[name][1].arguments


@pytest.mark.parametrize("name", CASES)
def test_containers_volumes_ports_and_probes(name: str, rendered: Mapping[str, Rendered]) -> None:
    made, expected = rendered[name], CASES[name][1]
    epp = made.container()
    probes = tuple(epp[kind]["grpc"]["service"] for kind in ("livenessProbe", "readinessProbe"))

    assert tuple(c["name"] for c in made.pod["containers"]) == expected.containers
    assert sorted(v["name"] for v in made.pod["volumes"]) == sorted(expected.volumes)
    assert made.service_ports == expected.ports
    assert probes == ("liveness", expected.readiness)
    assert [p["containerPort"] for p in epp["ports"]] == [9002, 9003, 9090]


@pytest.mark.parametrize("name", CASES)
def test_the_service_finds_the_pods_of_the_deployment(name: str, rendered: Mapping[str, Rendered]) -> None:
    made = rendered[name]
    deployment = made.one("Deployment", "pool-epp")["spec"]
    labels = {CASES[name][1].selector: "pool-epp"}

    assert deployment["selector"]["matchLabels"] == labels
    assert made.one("Service", "pool-epp")["spec"]["selector"] == labels
    assert labels.items() <= deployment["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", CASES)
def test_mounts_and_targets_name_what_is_there(name: str, rendered: Mapping[str, Rendered]) -> None:
    """A pod with a mount without a volume, or a Service with a port that no container has, is refused or leads nowhere."""
    made = rendered[name]
    containers = made.pod["containers"]
    mounts = {m["name"] for c in containers for m in c.get("volumeMounts", [])}
    ports = {p["name"] for c in containers for p in c["ports"]} | {
        p["containerPort"] for c in containers for p in c["ports"]
    }
    targets = {p["targetPort"] for p in made.one("Service", "pool-epp")["spec"]["ports"]}

    assert mounts <= {v["name"] for v in made.pod["volumes"]}
    assert targets <= ports


@pytest.mark.parametrize("name", CASES)
def test_nothing_needs_more_than_the_restricted_pod_security_standard(
    name: str, rendered: Mapping[str, Rendered]
) -> None:
    for deployment in (o for o in rendered[name].objects if o["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]

        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_rights_are_those_of_the_namespace_but_for_asking_who_reads_metrics(rendered: Mapping[str, Rendered]) -> None:
    for made in rendered.values():
        for role in (o for o in made.objects if o["kind"] == "ClusterRole"):
            resources = {r for rule in role["rules"] for r in rule.get("resources", [])}

            assert resources <= {"tokenreviews", "subjectaccessreviews"}


# --- what the EPP makes of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_our_own_parser_takes_the_arguments(name: str, rendered: Mapping[str, Rendered]) -> None:
    arguments = rendered[name].container()["args"]
    if "enable-latency-predictor" not in KNOWN_FLAGS and any("enable-latency-predictor" in a for a in arguments):
        pytest.skip("this epp does not predict latencies in its process: it has no --enable-latency-predictor")

    options = parse(arguments, {"NAMESPACE": "models", "POD_NAME": "pool-epp-1"})

    assert (options.pool_name or options.endpoint_selector) in ("pool", "app=vllm")
    assert options.warnings == tuple(w for w in options.warnings if "is ignored" not in w)


@pytest.mark.parametrize("name", CASES)
def test_our_own_loader_builds_every_configuration(name: str, rendered: Mapping[str, Rendered]) -> None:
    made = rendered[name]
    texts = made.files if "ConfigMap/pool-epp" in made.names else {}

    for file, text in texts.items():
        types = {plugin["type"] for plugin in yaml.safe_load(text)["plugins"]}
        if unknown := sorted(types - BUILTIN.keys()):
            pytest.skip(f"this epp does not predict latencies in its process: it has no {', '.join(unknown)}")
        environment = make_environment(allow_experimental=file == "payload-agnostic.yaml")
        assert build(load_text(text, file), make_registry(), environment).plugins


@pytest.mark.parametrize(
    ("name", "engine", "parsers"),
    [
        ("labels alone", None, []),
        ("sglang over gRPC", "sglang", []),
        ("vllm over gRPC", None, ["vllmgrpc-parser"]),
        ("triton, payload agnostic", "triton", ["passthrough-parser"]),
    ],
)
def test_the_default_configuration_fits_the_model_servers(
    name: str, engine: str | None, parsers: list[str], rendered: Mapping[str, Rendered]
) -> None:
    config = yaml.safe_load(rendered[name].files["default-plugins.yaml"])
    (extractor,) = [p for p in config["plugins"] if p["type"] == "core-metrics-extractor"]

    assert extractor.get("parameters", {}).get("defaultEngine") == engine
    assert [p["pluginRef"] for p in config.get("requestHandler", {}).get("parsers", [])] == parsers


def test_latency_decides_by_the_known_chain(rendered: Mapping[str, Rendered]) -> None:
    config = yaml.safe_load(rendered["gie-latency"].files["default-plugins.yaml"])

    assert [p["pluginRef"] for p in config["schedulingProfiles"][0]["plugins"]] == [
        "strict-affinity-filter",
        "slo-headroom-tier-filter",
        "loose-affinity-filter",
        "latency-scorer",
        "weighted-random-picker",
    ]
    assert {"predicted-latency-producer", "latency-slo-admitter"} <= {p["type"] for p in config["plugins"]}


# --- the proxy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gie-standalone", "llm-d-standalone", "llm-d-standalone, service"])
async def test_envoy_takes_its_configuration(name: str, rendered: Mapping[str, Rendered], tmp_path: Path) -> None:
    try:
        await validate(_envoy(rendered[name]), tmp_path)
    except EnvoyMissingError as missing:
        pytest.skip(str(missing))


ENVOY: Final = BootstrapOptions(
    epp="127.0.0.1:9002",
    epp_tls=True,
    epp_keepalive_s=10.0,
    listen_host="0.0.0.0",
    listen_port=8081,
    admin_port=19000,
    probes_host="0.0.0.0",
    probes_port=19001,
    histograms=True,
)
FAIL_OPEN: Final = replace(
    ENVOY,
    upstream=Upstream.OVERRIDE_HOST,
    endpoints_dns="pool-model-servers.models.svc.cluster.local:8000",
    request_body=BodyMode.BUFFERED,
    response_body=BodyMode.STREAMED,
    failure_mode_allow=True,
)


@pytest.mark.parametrize(("name", "options"), [("gie-standalone", ENVOY), ("llm-d-standalone", FAIL_OPEN)])
def test_envoy_is_told_what_envoy_config_would_tell_it(
    name: str, options: BootstrapOptions, rendered: Mapping[str, Rendered]
) -> None:
    """There is one way to ask the EPP, wherever its Envoy comes from."""
    assert _by_name(_envoy(rendered[name])) == _by_name(bootstrap(options))


@pytest.mark.parametrize("ports", [[8000], [8000, 8001]])
def test_envoy_that_fails_open_knows_every_port_of_the_servers_by_their_service(ports: list[int], helm: None) -> None:
    values = gie(
        sidecar={"enabled": True, "failOpen": True},
        endpointsServer={**NO_POOL, "endpointSelector": "app=vllm, role==decode", "targetPorts": ports},
    )

    made = render(Case("standalone", (), values))

    service = made.one("Service", "pool-model-servers")["spec"]
    (cluster,) = [c for c in _envoy(made)["static_resources"]["clusters"] if c["name"] == "model_servers"]
    known = [
        e["endpoint"]["address"]["socket_address"] for e in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    assert (service["clusterIP"], service["selector"]) == ("None", {"app": "vllm", "role": "decode"})
    assert [address["port_value"] for address in known] == [port["port"] for port in service["ports"]] == ports


def _by_name(config: dict[str, Any]) -> dict[str, Any]:
    """Listeners and clusters have no order."""
    resources = config["static_resources"]
    return {**config, "static_resources": {kind: {x["name"]: x for x in items} for kind, items in resources.items()}}


def _envoy(made: Rendered) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(made.one("ConfigMap", "envoy")["data"]["envoy.yaml"])
    return config


# --- values that say the same --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"flags": {"v": 4, "enable-pprof": False}}, {"flags": [{"name": "enable-pprof", "value": "false"}, "--v=4"]}),
        ({"env": {"A": 1, "B": "b"}}, {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "b"}]}),
        (
            {"image": {"hub": "quay.io/me", "name": "epp", "tag": "v1"}},
            {"image": {"registry": "quay.io/me", "repository": "epp", "tag": "v1"}},
        ),
        ({"parser": "openai-parser"}, {"parsers": ["openai-parser"]}),
    ],
    ids=["flags", "env", "image", "parser"],
)
def test_two_ways_to_write_a_value_come_to_the_same(one: Object, other: Object, helm: None) -> None:
    assert render(Case("inferencepool", (), gie(**one))) == render(Case("inferencepool", (), gie(**other)))


def test_both_families_come_to_the_same_but_for_labels(rendered: Mapping[str, Rendered]) -> None:
    """An upstream values file of either kind, less the images, resources and labels that differ by themselves."""
    one = render(
        Case(
            "inferencepool",
            (),
            gie(replicas=2, tracing={"enabled": True}, extraServicePorts=[{"name": "zmq", "port": 5557}]),
        )
    )
    other = render(
        Case(
            "inferencepool",
            (),
            llm_d(epp={"replicas": 2}, tracing={"enabled": True}, extraServicePorts=[{"name": "zmq", "port": 5557}]),
        )
    )

    assert one.names == other.names
    assert one.container()["args"] == other.container()["args"]
    assert one.service_ports == other.service_ports
    assert one.pod["volumes"] == other.pod["volumes"]
    assert one.environment.keys() == other.environment.keys()


@pytest.mark.parametrize("chart", ["inferencepool", "standalone"])
def test_defaults_that_are_written_out_change_nothing(chart: str, helm: None) -> None:
    """As values files are often begun: with a copy of all defaults."""
    defaults = yaml.safe_load((CHARTS / "epplib" / "values.yaml").read_text())
    own = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    written = {**defaults, **own, "inferencePool": {**defaults["inferencePool"], **LABELS["inferencePool"]}}
    written["inferenceExtension"] = defaults["inferenceExtension"] | own.get("inferenceExtension", {})

    assert render(Case(chart, (), written)) == render(Case(chart, (), LABELS))


def test_a_change_of_what_servers_beside_the_epp_read_brings_new_pods(helm: None) -> None:
    def annotations(sync_s: int) -> Object:
        config = {"MODEL_SYNC_INTERVAL_SEC": sync_s}
        values = gie(latencyPredictor={**SIDECARS, "predictionServers": {"config": config}}, podAnnotations={"a": "b"})
        made = render(Case("standalone", (), values)).one("Deployment")["spec"]["template"]["metadata"]
        found: Object = made["annotations"]
        return found

    assert annotations(10) == annotations(10) != annotations(20)
    assert annotations(10).keys() == {"a", "checksum/proxy", "checksum/latency-predictor"}


def test_data_parallel_ports_become_ports_of_the_pool(helm: None) -> None:
    ports = [{"number": 8000}, {"number": 8001}, {"number": 8002}]

    made = render(Case("inferencepool", (), {"inferencePool": {**LABELS["inferencePool"], "targetPorts": ports}}))

    assert made.one("InferencePool")["spec"] == {
        "targetPorts": ports,
        "appProtocol": "http",
        "selector": {"matchLabels": {"app": "vllm"}},
        "endpointPickerRef": {"name": "pool-epp", "port": {"number": 9002}, "failureMode": "FailOpen"},
    }


def test_tracing_tells_the_collector_and_the_pod(helm: None) -> None:
    made = render(Case("inferencepool", (), gie(tracing={"enabled": True, "otelExporterEndpoint": "http://otel:4317"})))

    assert made.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel:4317"
    assert made.environment["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    assert made.container()["args"][-1] == "--tracing=true"


def test_servers_of_the_predictor_know_each_other(rendered: Mapping[str, Rendered]) -> None:
    made = rendered["llm-d-gateway, sidecars"]
    second = {v["name"]: v.get("value") for v in made.container("prediction-server-2")["env"]}

    assert made.environment["PREDICTION_SERVER_URL"] == "http://localhost:8001,http://localhost:8002"
    assert made.environment["TRAINING_SERVER_URL"] == "http://localhost:8000"
    assert (second["PREDICT_PORT"], second["TRAINING_SERVER_URL"]) == ("8002", "http://localhost:8000")
    assert made.container("prediction-server-2")["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8002}


def test_the_predictors_servers_run_ours_unless_an_image_is_given(rendered: Mapping[str, Rendered], helm: None) -> None:
    ours = render(Case("inferencepool", (), gie(latencyPredictor=TWO_SERVERS)))
    theirs = rendered["gie-latency, sidecars"]

    assert ours.container("training-server")["command"] == ["epp-predictor", "train", "--port", "8000"]
    assert ours.container("prediction-server-1")["command"] == ["epp-predictor", "serve"]
    assert ours.container("training-server")["image"] == ours.container()["image"]
    assert "command" not in theirs.container("training-server")
    assert theirs.container("training-server")["image"].startswith("registry.k8s.io/")


def test_istio_reaches_the_epp_by_tls_with_what_is_set_beside(helm: None) -> None:
    policy = {"connectionPool": {"http": {"http2MaxRequests": 9}}}
    values = {**LABELS, "provider": {"name": "istio", "istio": {"destinationRule": {"trafficPolicy": policy}}}}

    spec = render(Case("inferencepool", (), values)).one("DestinationRule")["spec"]

    assert spec["host"] == "pool-epp.models.svc.cluster.local"
    assert spec["trafficPolicy"] == {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}, **policy}


def test_what_pods_may_have_is_passed_on(helm: None) -> None:
    extra = {
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "nodeSelector": {"pool": "cpu"},
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"name": "first", "image": "busybox"}],
        "terminationGracePeriodSeconds": 60,
    }
    mount = {"name": "state", "mountPath": "/state"}
    volume = {"name": "state", "emptyDir": {}}
    container = {"name": "beside", "image": "busybox"}

    made = render(
        Case(
            "inferencepool",
            (),
            gie(**extra, volumes=[volume], volumeMounts=[mount], extraContainers=[container], podLabels={"a": "b"}),
        )
    )

    assert {key: made.pod[key] for key in extra} == extra
    assert volume in made.pod["volumes"]
    assert mount in made.container()["volumeMounts"]
    assert container in made.pod["containers"]


@pytest.mark.parametrize(
    ("grace_s", "hands_over_s", "drains_s"),
    [(130, 15, 105), (25, 15, 0), (20, 10, 0), (15, 5, 0), (5, 0, 0), (0, 0, 0)],
)
def test_a_leader_is_done_before_its_grace_period_ends(
    grace_s: int, hands_over_s: int, drains_s: int, helm: None
) -> None:
    """A container that still sleeps then is killed with the requests that it serves."""
    made = render(Case("inferencepool", (), gie(replicas=2, terminationGracePeriodSeconds=grace_s))).container()

    assert made["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(hands_over_s)]
    assert f"--drain-timeout={drains_s}s" in made["args"]


# --- how many pods -------------------------------------------------------------------------------------------------------


def test_an_autoscaler_has_its_deployment_to_itself_and_every_pod_serves(rendered: Mapping[str, Rendered]) -> None:
    made = rendered["autoscaling of proxies, too"]

    for name, least in (("pool-epp", 2), ("pool-proxy", 1)):
        spec = made.one("HorizontalPodAutoscaler", name)["spec"]
        cpu = {"type": "Utilization", "averageUtilization": 80}
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert (spec["minReplicas"], spec["maxReplicas"]) == (least, 5)
        assert spec["metrics"] == [{"type": "Resource", "resource": {"name": "cpu", "target": cpu}}]
        assert "replicas" not in made.one("Deployment", name)["spec"]
    assert made.one("Deployment", "pool-epp")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_an_autoscaler_is_told_more_where_values_do(helm: None) -> None:
    metrics = [{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    scaling = {"enabled": True, "targetMemoryUtilizationPercentage": 70}

    def spec(**more: Any) -> Object:
        made = render(Case("inferencepool", (), llm_d(epp={"autoscaling": {**scaling, **more}})))
        found: Object = made.one("HorizontalPodAutoscaler")["spec"]
        return found

    assert {m["resource"]["name"]: m["resource"]["target"]["averageUtilization"] for m in spec()["metrics"]} == {
        "cpu": 80,
        "memory": 70,
    }
    assert spec(metrics=metrics, behavior=behavior)["metrics"] == metrics
    assert spec(metrics=metrics, behavior=behavior)["behavior"] == behavior


def test_gke_is_told_which_pickers_it_should_prefer(rendered: Mapping[str, Rendered]) -> None:
    made = rendered["gke, preferred backends"]
    preferred, backup = (made.one("Deployment", name)["spec"] for name in ("pool-epp", "pool-epp-backup"))
    policies = {name: made.one("GCPBackendPolicy", name)["spec"] for name in ("pool-epp", "pool-epp-backup")}

    assert (preferred["replicas"], backup["replicas"]) == (1, 2)
    assert made.one("InferencePool")["spec"]["endpointPickerRef"]["name"] == "pool-epp-backup"
    for name, deployment in (("pool-epp", preferred), ("pool-epp-backup", backup)):
        labels = {"llm-d-router-gateway": name}
        assert made.one("Service", name)["spec"]["selector"] == deployment["selector"]["matchLabels"] == labels
        assert policies[name]["targetRef"] == {"group": "", "kind": "Service", "name": name}
    assert [policy["default"]["backendPreference"] for policy in policies.values()] == ["PREFERRED", "DEFAULT"]
    assert policies["pool-epp"]["default"] | {"backendPreference": "DEFAULT"} == policies["pool-epp-backup"]["default"]
    assert policies["pool-epp"]["default"]["maxRatePerEndpoint"] == 100


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "inferencePool.modelServers.matchLabels: the labels of the model servers' pods are needed"),
        ({"router": {"epp": {"replicas": 1}}}, "router.modelServers.matchLabels: the labels"),
        (gie(replica=2), "/inferenceExtension/replica"),
        (gie(image={"tags": "v1"}), "additional properties 'tags' not allowed"),
        (gie(latencyPredictor={"trainingServer": {"prt": 1}}), "additional properties 'prt' not allowed"),
        (llm_d(epp={"resource": {}}), "/router/epp/resource"),
        (llm_d(modelServer={}), "additional properties 'modelServer' not allowed"),
        ({**LABELS, "inferenceObjective": []}, "additional properties 'inferenceObjective' not allowed"),
        (gie(replicas=0), "minimum: got 0, want 1"),
        (gie(failureMode="Open"), "/inferenceExtension/failureMode"),
        (gie(pluginsConfigFile="my.yaml"), "there is no my.yaml, only default-plugins.yaml, payload-agnostic.yaml"),
        (gie(pluginsConfigFile="a.yaml", pluginsConfig={"a": 1}, pluginsCustomConfig={"a.yaml": "a"}), "both give a.yaml"),
        (gie(endpointsServer={"createInferencePool": False}), "endpointSelector: the labels"),
        (gie(tokenizer={"enabled": True}), "tokenizer.modelName: name the model"),
        (
            gie(tokenizer={"enabled": True, "modelName": "m"}, latencyPredictor=SIDECARS),
            "latencyPredictor: port 8000 is that of tokenizer.port, too",
        ),
        (
            gie(latencyPredictor={**TWO_SERVERS, "predictionServers": {"count": 2, "startPort": 9001}}),
            "latencyPredictor: port 9002 is that of ext_proc, too",
        ),
        (gie(sidecar={"enabled": True, "proxyType": "agentgateway"}), "agentgateway: it routes without an InferencePool"),
        ({**gie(endpointsServer=NO_POOL), "inferenceObjectives": [{"name": "a", "priority": 1}]}, "none is created"),
        ({"inferencePool": {**LABELS["inferencePool"], "targetPorts": [{"number": 1}] * 9}}, "maxItems: got 9, want 8"),
        (gie(endpointsServer={**NO_POOL, "targetPorts": "80,x"}), "targetPorts: 0 is not in 1..65535"),
        (gie(autoscaling={"enabled": True, "minReplicas": 9}), "autoscaling: maxReplicas is 5, less than minReplicas, 9"),
        (
            gie(autoscaling={"enabled": True}, flags={"ha-enable-leader-election": True}),
            "autoscaling: every pod has to serve, and those that wait to lead never do",
        ),
        (
            gie(endpointsServer={**NO_POOL, "endpointSelector": "a in (b)"}, sidecar={"enabled": True, "failOpen": True}),
            'failOpen: a Service selects by equal labels, and endpointSelector is "a in (b)"',
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_reason(values: Object, said: str, helm: None) -> None:
    with pytest.raises(ChartError) as refused:
        render(Case("inferencepool", (), values))

    assert said in str(refused.value)


def test_a_key_with_nothing_below_it_changes_nothing(helm: None) -> None:
    """As where all lines below it are commented out: for Helm that is null."""
    defaults = yaml.safe_load((CHARTS / "epplib" / "values.yaml").read_text())["inferenceExtension"]
    empty = dict.fromkeys(key for key, value in defaults.items() if isinstance(value, dict | list))
    deep = [place.split(".") for place in known_places() if place.count(".") == 2 and place.startswith("inferenceExt")]
    below: Object = {}
    for _, section, key in deep:
        below.setdefault(section, {})[key] = None

    usual = render(Case("inferencepool", (), LABELS))

    assert len(empty) > 15
    assert len(deep) > 5
    assert render(Case("inferencepool", (), {**LABELS, "inferenceExtension": empty, "provider": None})) == usual
    assert render(Case("inferencepool", (), {**LABELS, "inferenceExtension": below})) == usual
    router = {"monitoring": None, "proxy": None, "epp": {"flags": None, "env": None, "resources": None}}
    assert render(Case("inferencepool", (), llm_d(**router))) == render(Case("inferencepool", (), llm_d()))


def test_a_misspelt_value_is_refused_wherever_it_stands(helm: None) -> None:
    """At every place where the chart itself knows all the names."""
    places = list(known_places())
    assert len(places) > 30

    for place in places:
        wrong: Object = {"misspelt": 1}
        for key in reversed(place.split(".") if place else []):
            wrong = {key: wrong}
        with pytest.raises(ChartError, match="misspelt"):
            render(Case("inferencepool", (), wrong))


# --- the charts themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", ["inferencepool", "standalone"])
def test_helm_finds_nothing_to_complain_about(chart: str, helm: None) -> None:
    labels = "inferencePool.modelServers.matchLabels.app=vllm"

    said = run_helm("lint", "--strict", str(CHARTS / chart), "--set", labels)

    assert "0 chart(s) failed" in said


def test_a_packed_chart_needs_nothing_beside_it(helm: None, tmp_path: Path) -> None:
    run_helm("package", str(CHARTS / "inferencepool"), f"--destination={tmp_path}")
    (packed,) = tmp_path.glob("*.tgz")

    text = run_helm("template", "pool", str(packed), "--set", "inferencePool.modelServers.matchLabels.app=vllm")

    assert "kind: InferencePool" in text
