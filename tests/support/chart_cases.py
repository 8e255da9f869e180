"""Values of the Helm charts, and what they come to: objects, flags and ports as the charts of others make them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import yaml

from tests.support.charts import CHARTS, Case, Object, Rendered, render

LABELS: Final[Object] = {"inferencePool": {"modelServers": {"matchLabels": {"app": "vllm"}}}}
LLM_D_LABELS: Final[Object] = {"router": {"modelServers": {"matchLabels": {"app": "vllm"}}}}
PLUGINS: Final = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
"""

# What every release has, and what is there with a pool.
BASIC: Final = (
    "ClusterRole/pool-models-epp",
    "ClusterRoleBinding/pool-models-epp",
    "ConfigMap/pool-epp",
    "Deployment/pool-epp",
    "Role/pool-epp-sa",
    "RoleBinding/pool-epp-sa",
    "Service/pool-epp",
    "ServiceAccount/pool-epp",
)
WITH_POOL: Final = (*BASIC, "InferencePool/pool", "Role/pool-epp-non-sa", "RoleBinding/pool-epp-non-sa")
ELECTION: Final = ("Role/pool-epp-leader-election", "RoleBinding/pool-epp-leader-election-binding")
PREDICTOR: Final = ("ConfigMap/pool-epp-latency-predictor-prediction", "ConfigMap/pool-epp-latency-predictor-training")

POOL: Final = ("--pool-name", "pool", "--pool-namespace", "models", "--pool-group", "inference.networking.k8s.io")
SELECTOR: Final = ("--endpoint-selector", "app=vllm", "--endpoint-target-ports")
CONFIG: Final = ("--zap-encoder", "json", "--config-file", "/config/default-plugins.yaml")
DRAIN: Final = "--drain-timeout=120s"  # of a grace period of 130 s
FLAGS: Final = (*POOL, *CONFIG, DRAIN, "--v=1", "--tracing=false")  # where the values say nothing of them
PORTS: Final = {"grpc-ext-proc": 9002, "http-metrics": 9090}


class Expected(NamedTuple):
    """Everything that a release has of these."""

    objects: tuple[str, ...]
    arguments: tuple[str, ...]
    ports: Mapping[str, int] = PORTS
    containers: tuple[str, ...] = ("epp",)
    volumes: tuple[str, ...] = ("plugins-config-volume", "tmp")
    readiness: str = "inference-extension"
    selector: str = "inferencepool"


def gie(**extension: Any) -> Object:
    """Values in GIE's names."""
    return {**LABELS, "inferenceExtension": extension}


def llm_d(**router: Any) -> Object:
    """Values in llm-d's names."""
    return {"router": {**LLM_D_LABELS["router"], **router}}


NO_POOL: Final = {"createInferencePool": False, "endpointSelector": "app=vllm", "targetPorts": "8000,8001"}
SIDECARS: Final = {"enabled": True, "mode": "sidecars"}
TWO_SERVERS: Final = {**SIDECARS, "predictionServers": {"count": 2}}
SERVER_VOLUMES: Final = ("training-server-storage", "prediction-server-1-storage", "prediction-server-2-storage")
GUIDE_SERVERS: Final = {"trainingServer": {"enabled": True}, "predictionServers": {"enabled": True, "replicas": 2}}

CASES: Final[Mapping[str, tuple[Case, Expected]]] = {
    # --- values files as people have them
    "gie-inferencepool": (
        Case("inferencepool", ("gie-inferencepool",)),
        Expected(WITH_POOL, FLAGS),
    ),
    "gie-latency": (
        Case("inferencepool", ("gie-latency",)),
        Expected(WITH_POOL, (*POOL, *CONFIG, DRAIN, "--enable-latency-predictor", "--v=1", "--tracing=false")),
    ),
    "gie-latency, sidecars": (
        Case("inferencepool", ("gie-latency",), {"inferenceExtension": {"latencyPredictor": TWO_SERVERS}}),
        Expected(
            (*WITH_POOL, *PREDICTOR),
            (*POOL, *CONFIG, DRAIN, "--enable-latency-predictor", "--v=1", "--tracing=false"),
            ports={**PORTS, "latency-training": 8000, "latency-predict-1": 8001, "latency-predict-2": 8002},
            containers=("epp", "training-server", "prediction-server-1", "prediction-server-2"),
            volumes=("plugins-config-volume", "tmp", *SERVER_VOLUMES),
        ),
    ),
    "gie-standalone": (
        Case("standalone", ("gie-standalone",)),
        Expected(
            (*WITH_POOL, "ConfigMap/envoy"),
            FLAGS,
            ports={**PORTS, "http": 8081},
            containers=("envoy-sidecar", "epp"),
            volumes=("plugins-config-volume", "tmp", "config"),
        ),
    ),
    "gie-standalone, selector": (
        Case("standalone", ("gie-standalone",), {"inferenceExtension": {"endpointsServer": NO_POOL}}),
        Expected(
            (*BASIC, "ConfigMap/envoy"),
            (*SELECTOR, "8000,8001", *CONFIG, DRAIN, "--v=1", "--tracing=false"),
            ports={**PORTS, "http": 8081},
            containers=("envoy-sidecar", "epp"),
            volumes=("plugins-config-volume", "tmp", "config"),
            selector="epp",
        ),
    ),
    "llm-d-gateway": (
        Case("inferencepool", ("llm-d-gateway",)),
        Expected(WITH_POOL, FLAGS, selector="llm-d-router-gateway"),
    ),
    "llm-d-gateway, sidecars": (
        Case("inferencepool", ("llm-d-gateway",), {"router": {"latencyPredictor": TWO_SERVERS}}),
        Expected(
            (*WITH_POOL, *PREDICTOR),
            (*POOL, *CONFIG, DRAIN, "--enable-latency-predictor", "--v=1", "--tracing=false"),
            ports={**PORTS, "latency-training": 8000, "latency-predict-1": 8001, "latency-predict-2": 8002},
            containers=("epp", "training-server", "prediction-server-1", "prediction-server-2"),
            volumes=("plugins-config-volume", "tmp", *SERVER_VOLUMES),
            selector="llm-d-router-gateway",
        ),
    ),
    "llm-d-standalone": (
        Case("standalone", ("llm-d-standalone",)),
        Expected(
            (*WITH_POOL, "ConfigMap/envoy", "Service/pool-model-servers"),
            FLAGS,
            ports={**PORTS, "http": 8081},
            containers=("envoy-proxy", "epp"),
            volumes=("plugins-config-volume", "tmp", "config"),
            selector="llm-d-router-gateway",
        ),
    ),
    "llm-d-standalone, selector, agentgateway": (
        Case(
            "standalone",
            ("llm-d-standalone",),
            {"router": {"inferencePool": {"create": False}, "proxy": {"proxyType": "agentgateway"}}},
        ),
        Expected(
            (*BASIC, "ConfigMap/agentgateway"),
            (*SELECTOR, "8000", *CONFIG, DRAIN, "--secure-serving=false", "--v=1", "--tracing=false"),
            ports={**PORTS, "http": 8081},
            containers=("agentgateway-proxy", "epp"),
            volumes=("plugins-config-volume", "tmp", "agentgateway-config-template"),
            selector="llm-d-router-standalone",
        ),
    ),
    "llm-d-standalone, service": (
        Case("standalone", ("llm-d-standalone",), {"router": {"proxy": {"mode": "service"}}}),
        Expected(
            (
                *WITH_POOL,
                "ConfigMap/envoy",
                "Deployment/pool-proxy",
                "Service/pool-model-servers",
                "Service/pool-proxy",
            ),
            FLAGS,
            selector="llm-d-router-gateway",
        ),
    ),
    "llm-d-gateway, tokenizer": (
        Case("inferencepool", ("llm-d-gateway",), {"router": {"tokenizer": {"enabled": True, "modelName": "qwen"}}}),
        Expected(
            WITH_POOL,
            FLAGS,
            containers=("epp", "vllm-render"),
            volumes=("plugins-config-volume", "tmp", "model-cache"),
            selector="llm-d-router-gateway",
        ),
    ),
    "slo-guide": (
        Case("inferencepool", ("slo-guide",)),
        Expected(
            WITH_POOL,
            (
                *POOL,
                *CONFIG[:-1],
                "/config/slo-plugins.yaml",
                DRAIN,
                "--enable-latency-predictor=true",
                "--v=4",
                "--tracing=false",
            ),
        ),
    ),
    "slo-guide, sidecars": (
        Case("inferencepool", ("slo-guide",), {"inferenceExtension": {"sidecars": GUIDE_SERVERS}}),
        Expected(
            (*WITH_POOL, *PREDICTOR),
            (
                *POOL,
                *CONFIG[:-1],
                "/config/slo-plugins.yaml",
                DRAIN,
                "--enable-latency-predictor=true",
                "--v=4",
                "--tracing=false",
            ),
            ports={**PORTS, "latency-training": 8000, "latency-predict-1": 8001, "latency-predict-2": 8002},
            containers=("epp", "training-server", "prediction-server-1", "prediction-server-2"),
            volumes=("plugins-config-volume", "tmp", *SERVER_VOLUMES),
        ),
    ),
    "values-slo-example": (
        Case("inferencepool", (), yaml.safe_load((CHARTS / "inferencepool" / "values-slo-example.yaml").read_text())),
        Expected(
            (
                *WITH_POOL,
                "InferenceObjective/batch",
                "InferenceObjective/interactive",
            ),
            (*POOL, *CONFIG, DRAIN, "--enable-latency-predictor", "--v=2", "--tracing=false"),
        ),
    ),
    # --- single values
    "labels alone": (
        Case("inferencepool", (), LABELS),
        Expected(WITH_POOL, FLAGS),
    ),
    "replicas": (
        Case("inferencepool", (), gie(replicas=3)),
        Expected(
            (*WITH_POOL, *ELECTION),
            (*POOL, *CONFIG, "--drain-timeout=105s", "--ha-enable-leader-election", "--v=1", "--tracing=false"),
            readiness="readiness",
        ),
    ),
    "one that is asked to elect": (
        Case("inferencepool", (), gie(flags={"ha-enable-leader-election": True})),
        Expected(
            (*WITH_POOL, *ELECTION),
            (*POOL, *CONFIG, "--drain-timeout=105s", "--ha-enable-leader-election=true", "--v=1", "--tracing=false"),
        ),
    ),
    "replicas that do not elect": (
        Case("inferencepool", (), llm_d(epp={"replicas": 2, "flags": {"ha-enable-leader-election": False}})),
        Expected(
            WITH_POOL,
            (*POOL, *CONFIG, DRAIN, "--ha-enable-leader-election=false", "--v=1", "--tracing=false"),
            readiness="readiness",
            selector="llm-d-router-gateway",
        ),
    ),
    "replicas that all serve": (
        Case("inferencepool", (), gie(replicas=2, flags={"replicas-serve": "all"})),
        Expected(
            WITH_POOL,
            (*POOL, *CONFIG, DRAIN, "--replicas-serve=all", "--v=1", "--tracing=false"),
            readiness="readiness",
        ),
    ),
    "monitoring": (
        Case("inferencepool", (), gie(monitoring={"prometheus": {"enabled": True}})),
        Expected(
            (*WITH_POOL, "Secret/inference-gateway-sa-metrics-reader-secret", "ServiceMonitor/pool-epp-monitor"),
            FLAGS,
        ),
    ),
    "metrics for all": (
        Case("inferencepool", (), gie(monitoring={"prometheus": {"enabled": True, "auth": {"enabled": False}}})),
        Expected(
            (*(name for name in WITH_POOL if not name.startswith("ClusterRole")), "ServiceMonitor/pool-epp-monitor"),
            (*POOL, *CONFIG, DRAIN, "--v=1", "--tracing=false", "--metrics-endpoint-auth=false"),
        ),
    ),
    "metrics for all by a flag": (
        Case("inferencepool", (), gie(flags={"metrics-endpoint-auth": False})),
        Expected(
            tuple(name for name in WITH_POOL if not name.startswith("ClusterRole")),
            (*POOL, *CONFIG, DRAIN, "--metrics-endpoint-auth=false", "--v=1", "--tracing=false"),
        ),
    ),
    "metrics behind a token by a flag": (
        Case(
            "inferencepool",
            (),
            gie(monitoring={"prometheus": {"auth": {"enabled": False}}}, flags={"metrics-endpoint-auth": True}),
        ),
        Expected(WITH_POOL, (*POOL, *CONFIG, DRAIN, "--metrics-endpoint-auth=true", "--v=1", "--tracing=false")),
    ),
    "gke": (
        Case("inferencepool", (), {**gie(monitoring={"prometheus": {"enabled": True}}), "provider": {"name": "gke"}}),
        Expected(
            (
                *WITH_POOL,
                "ClusterRole/models-pool-metrics-reader",
                "ClusterRoleBinding/models-pool-metrics-reader-role-binding",
                "GCPBackendPolicy/pool",
                "HealthCheckPolicy/pool",
                "PodMonitoring/pool",
                "Role/pool-metrics-reader-secret-read",
                "RoleBinding/gmp-system:collector:models-pool-metrics-reader-secret-read",
                "Secret/pool-metrics-reader-secret",
                "ServiceAccount/pool-metrics-reader-sa",
            ),
            FLAGS,
        ),
    ),
    "gke, preferred backends": (
        Case(
            "inferencepool",
            ("llm-d-gateway",),
            {"provider": {"name": "gke", "gke": {"preferredBackends": {"enabled": True, "defaultReplicas": 2}}}},
        ),
        Expected(
            (
                *WITH_POOL,
                "Deployment/pool-epp-backup",
                "GCPBackendPolicy/pool",
                "GCPBackendPolicy/pool-epp",
                "GCPBackendPolicy/pool-epp-backup",
                "HealthCheckPolicy/pool",
                "Service/pool-epp-backup",
            ),
            FLAGS,
            readiness="readiness",
            selector="llm-d-router-gateway",
        ),
    ),
    "autoscaling": (
        Case("inferencepool", (), gie(autoscaling={"enabled": True})),
        Expected(
            (*WITH_POOL, "HorizontalPodAutoscaler/pool-epp"),
            FLAGS,
            readiness="readiness",
        ),
    ),
    "autoscaling of proxies, too": (
        Case(
            "standalone",
            ("llm-d-standalone",),
            {
                "router": {
                    "epp": {"autoscaling": {"enabled": True, "minReplicas": 2}},
                    "proxy": {"mode": "service", "autoscaling": {"enabled": True}},
                }
            },
        ),
        Expected(
            (
                *WITH_POOL,
                "ConfigMap/envoy",
                "Deployment/pool-proxy",
                "HorizontalPodAutoscaler/pool-epp",
                "HorizontalPodAutoscaler/pool-proxy",
                "Service/pool-model-servers",
                "Service/pool-proxy",
            ),
            FLAGS,
            readiness="readiness",
            selector="llm-d-router-gateway",
        ),
    ),
    "istio": (
        Case("inferencepool", (), {**LABELS, "provider": {"name": "istio"}}),
        Expected((*WITH_POOL, "DestinationRule/pool-epp"), FLAGS),
    ),
    "route and objectives": (
        Case(
            "inferencepool",
            (),
            {
                **LABELS,
                "experimentalHttpRoute": {"enabled": True},
                "inferenceObjectives": [{"name": "chat", "priority": 5}, {"name": "batch", "priority": -1}],
            },
        ),
        Expected(
            (*WITH_POOL, "HTTPRoute/pool", "InferenceObjective/batch", "InferenceObjective/chat"),
            FLAGS,
        ),
    ),
    "availability": (
        Case("inferencepool", (), gie(podDisruptionBudget={"enabled": True}, networkPolicy={"enabled": True})),
        Expected(
            (*WITH_POOL, "NetworkPolicy/pool-epp", "PodDisruptionBudget/pool-epp"),
            FLAGS,
        ),
    ),
    "a configuration that is there": (
        Case("inferencepool", (), gie(existingConfigMap="mine", pluginsConfigFile="a.yaml")),
        Expected(
            tuple(name for name in WITH_POOL if name != "ConfigMap/pool-epp"),
            (*POOL, *CONFIG[:-1], "/config/a.yaml", DRAIN, "--v=1", "--tracing=false"),
        ),
    ),
    "a configuration of one's own": (
        Case(
            "inferencepool",
            (),
            gie(pluginsConfigFile="my.yaml", pluginsCustomConfig={"my.yaml": PLUGINS, "b.yaml": PLUGINS}),
        ),
        Expected(WITH_POOL, (*POOL, *CONFIG[:-1], "/config/my.yaml", DRAIN, "--v=1", "--tracing=false")),
    ),
    "a configuration as a map": (
        Case("inferencepool", (), llm_d(epp={"pluginsConfigFile": "m.yaml", "pluginsConfig": yaml.safe_load(PLUGINS)})),
        Expected(
            WITH_POOL,
            (*POOL, *CONFIG[:-1], "/config/m.yaml", DRAIN, "--v=1", "--tracing=false"),
            selector="llm-d-router-gateway",
        ),
    ),
    "flags that the chart would pass": (
        Case(
            "inferencepool",
            (),
            gie(
                flags=[
                    {"name": "tracing", "value": True},
                    {"name": "zap-encoder", "value": "console"},
                    "-v=3",
                    {"name": "health-checking"},
                ]
            ),
        ),
        Expected(
            WITH_POOL,
            (*POOL, *CONFIG[2:], DRAIN, "--tracing=true", "--zap-encoder=console", "--v=3", "--health-checking"),
        ),
    ),
    "sglang over gRPC": (
        Case(
            "inferencepool",
            (),
            {"inferencePool": {**LABELS["inferencePool"], "modelServerType": "sglang", "modelServerProtocol": "grpc"}},
        ),
        Expected(WITH_POOL, FLAGS),
    ),
    "vllm over gRPC": (
        Case("inferencepool", (), llm_d(modelServers={**LLM_D_LABELS["router"]["modelServers"], "protocol": "grpc"})),
        Expected(WITH_POOL, FLAGS, selector="llm-d-router-gateway"),
    ),
    "triton, payload agnostic": (
        Case(
            "inferencepool",
            (),
            {
                **LABELS,
                "inferencePool": {**LABELS["inferencePool"], "modelServerType": "triton"},
                "inferenceExtension": {"pluginsConfigFile": "payload-agnostic.yaml"},
            },
        ),
        Expected(
            WITH_POOL,
            (
                *POOL,
                *CONFIG[:-1],
                "/config/payload-agnostic.yaml",
                DRAIN,
                "--allow-experimental-plugins",
                "--v=1",
                "--tracing=false",
            ),
        ),
    ),
}


@cache
def rendered(name: str) -> Rendered:
    """What a case comes to; not to be changed. Raises ToolMissingError where there is no helm."""
    return render(CASES[name][0])
