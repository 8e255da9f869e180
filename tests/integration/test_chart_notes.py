"""What helm says about values that do nothing: every value of the table, where it does nothing and where it counts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.support.chart_cases import LABELS, NO_POOL, SIDECARS, gie
from tests.support.chart_docs import children, in_llm_d, sample, values, without_effect
from tests.support.charts import CHARTS, Case, ChartError, Object, Rendered, render
from tests.support.tools import HELM, find_or_skip

Remarks = Callable[[Object], list[str]]

# helm shows NOTES.txt only where it installs; as an object its remarks come with all others.
REMARKS: Final = """\
{{- $tree := include "epplib.tree" . | fromYaml -}}
---
kind: Remarks
metadata: {name: remarks}
said: {{ include "epplib.remarks" (dict "tree" $tree "values" .Values) | fromYamlArray | toJson }}
"""


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """inferencepool, with its remarks as an object."""
    find_or_skip(HELM)
    charts = tmp_path_factory.mktemp("charts")
    shutil.copytree(CHARTS, charts, symlinks=True, dirs_exist_ok=True)
    (charts / "inferencepool" / "templates" / "remarks.yaml").write_text(REMARKS)
    return charts / "inferencepool"


@pytest.fixture
def remarks(chart: Path) -> Remarks:
    """What is said of some values."""

    def said(values: Object) -> list[str]:
        found: list[str] = render(Case(str(chart), (), values)).one("Remarks")["said"]
        return found

    return said


class Where(NamedTuple):
    """Values with which those of a row do nothing, and others with which they count; none: they never do.

    `idle_llm_d`: the first in llm-d's names, where those of the row in such names need it.
    """

    idle: Object
    used: Object | None
    idle_llm_d: Object | None = None


def merged(into: Any, more: Any) -> Any:
    """`more` over `into`, map by map."""
    if not isinstance(into, dict) or not isinstance(more, dict):
        return more
    return {**into, **{key: merged(into.get(key), value) for key, value in more.items()}}


def proxy(**more: Any) -> Object:
    return gie(sidecar={"enabled": True, **more})


def monitored(**more: Any) -> Object:
    return gie(monitoring={"prometheus": {"enabled": True, **more}})


def provider(name: str, **more: Any) -> Object:
    return {**LABELS, "provider": {"name": name, name: more}}


SERVICE: Final = proxy(mode="service")
SCALED: Final = {"enabled": True, "metrics": [{"type": "Pods"}]}
AGENTGATEWAY: Final = gie(endpointsServer=NO_POOL, sidecar={"enabled": True, "proxyType": "agentgateway"})
GUIDE: Final = gie(sidecars={"trainingServer": {"enabled": True}, "predictionServers": {"enabled": True}})
WITHOUT_POOL: Final = gie(endpointsServer=NO_POOL)
PERSISTENT: Final = {"trainingServer": {"persistence": {"enabled": True}}}
BACKENDS: Final = provider("gke", preferredBackends={"enabled": True})
GMP: Final = {**monitored(), **provider("gke")}
ROUTE: Final = {**LABELS, "experimentalHttpRoute": {"enabled": True}}
POOL_OF_LLM_D: Final = {
    "router": {"inferencePool": {"create": False}, "modelServers": {"matchLabels": {"app": "vllm"}}}
}
OVER_GRPC: Final = {"inferencePool": {**LABELS["inferencePool"], "modelServerProtocol": "grpc"}}

ROWS: Final[Mapping[str, Where]] = {
    "autoscaling has minReplicas and maxReplicas": Where(gie(autoscaling={"enabled": True}), LABELS),
    "autoscaling.enabled is false": Where(LABELS, gie(autoscaling={"enabled": True})),
    "autoscaling.metrics says what counts": Where(gie(autoscaling=SCALED), gie(autoscaling={"enabled": True})),
    "preferredBackends has preferredReplicas and defaultReplicas": Where(BACKENDS, LABELS),
    "podDisruptionBudget.enabled is false": Where(LABELS, gie(podDisruptionBudget={"enabled": True})),
    "one pod leads, and only that one is ever ready": Where(
        gie(podDisruptionBudget={"enabled": True}, replicas=2), gie(podDisruptionBudget={"enabled": True})
    ),
    "networkPolicy.enabled is false": Where(LABELS, gie(networkPolicy={"enabled": True})),
    "flags say grpc-health-port": Where(gie(flags={"grpc-health-port": 9100}), LABELS),
    "nothing here is told a name within the cluster": Where(LABELS, SERVICE),
    "existingConfigMap is used": Where(gie(existingConfigMap="mine"), LABELS),
    "it is for the chart's own default-plugins.yaml, and another configuration is used": Where(
        gie(pluginsConfigFile="payload-agnostic.yaml"), LABELS
    ),
    "requests to vLLM over gRPC have a parser of their own": Where(OVER_GRPC, LABELS),
    "parsers goes before it": Where(gie(parsers=["anthropic-parser"]), LABELS),
    "there is no proxy (inferenceExtension.sidecar.enabled, router.proxy.enabled)": Where(
        LABELS, AGENTGATEWAY
    ),
    "it is for a proxy with mode service": Where(proxy(), SERVICE),
    "the proxy's autoscaling has minReplicas and maxReplicas": Where(
        proxy(mode="service", autoscaling={"enabled": True}), SERVICE
    ),
    "the proxy's autoscaling.enabled is false": Where(SERVICE, proxy(mode="service", autoscaling={"enabled": True})),
    "the proxy's autoscaling.metrics says what counts": Where(
        proxy(mode="service", autoscaling=SCALED), proxy(mode="service", autoscaling={"enabled": True})
    ),
    "agentgateway refuses requests that no EPP was asked about": Where(AGENTGATEWAY, proxy()),
    "proxyType is agentgateway": Where(AGENTGATEWAY, proxy()),
    "proxyType is envoy": Where(proxy(), AGENTGATEWAY),
    "tokenizer.enabled is false": Where(LABELS, gie(tokenizer={"enabled": True, "modelName": "m"})),
    "tokenizer.command says what is run": Where(
        gie(tokenizer={"enabled": True, "modelName": "m", "command": ["mine"]}),
        gie(tokenizer={"enabled": True, "modelName": "m"}),
    ),
    "monitoring.prometheus.enabled is false": Where(LABELS, monitored()),
    "there is a PodMonitoring and no ServiceMonitor": Where(GMP, monitored()),
    "there is a ServiceMonitor and no PodMonitoring": Where(monitored(), GMP),
    "monitoring.prometheus.auth.enabled is false": Where(monitored(auth={"enabled": False}), monitored()),
    "flags say metrics-endpoint-auth": Where(gie(flags={"metrics-endpoint-auth": True}), LABELS),
    "tracing.enabled is false": Where(LABELS, gie(tracing={"enabled": True})),
    "flags turn tracing off": Where(
        gie(tracing={"enabled": True}, flags={"tracing": False}), gie(tracing={"enabled": True})
    ),
    "the chart gives the servers their ports, and each the address of the other": Where(GUIDE, None),
    "sidecars.trainingServer.enabled is false": Where(LABELS, GUIDE),
    "sidecars.predictionServers.enabled is false": Where(LABELS, GUIDE),
    "the EPP predicts in its own process; with latencyPredictor.mode sidecars there are servers": Where(
        gie(latencyPredictor={"enabled": True}), gie(latencyPredictor=SIDECARS)
    ),
    "latencyPredictor.enabled is false": Where(LABELS, gie(latencyPredictor=SIDECARS)),
    "models are kept in the PersistentVolumeClaim": Where(
        gie(latencyPredictor={**SIDECARS, **PERSISTENT}), gie(latencyPredictor=SIDECARS)
    ),
    "trainingServer.persistence.enabled is false": Where(
        gie(latencyPredictor=SIDECARS), gie(latencyPredictor={**SIDECARS, **PERSISTENT}, **GUIDE["inferenceExtension"])
    ),
    "there is an InferencePool, whose labels and ports count": Where(LABELS, WITHOUT_POOL),
    "router.modelServers says which pods are model servers": Where(POOL_OF_LLM_D, WITHOUT_POOL),
    "there is no InferencePool, so those of endpointsServer count": Where(WITHOUT_POOL, LABELS),
    "there is no InferencePool": Where(WITHOUT_POOL, provider("istio")),
    "without an InferencePool nothing is made for a gateway": Where(WITHOUT_POOL, LABELS),
    "it is for an InferencePool, a proxy, and requests to vLLM": Where(
        gie(endpointsServer={**NO_POOL, "modelServerType": "sglang"}),
        LABELS,
        merged(POOL_OF_LLM_D, {"router": {"modelServers": {"type": "sglang"}}}),
    ),
    "targetPorts goes before it": Where(
        merged(LABELS, {"inferencePool": {"targetPorts": [{"number": 1}]}}),
        LABELS,
        {"router": {"modelServers": {"matchLabels": {"app": "vllm"}, "targetPorts": [{"number": 1}]}}},
    ),
    "provider.name is not istio": Where(LABELS, provider("istio")),
    "it is for an InferencePool with provider.name gke": Where(LABELS, BACKENDS),
    "preferredBackends.enabled is false": Where(provider("gke"), BACKENDS),
    "balancingMode is not RATE": Where(
        provider("gke", preferredBackends={"enabled": True, "balancingMode": "UTILIZATION"}), BACKENDS
    ),
    "there is no HTTPRoute (experimentalHttpRoute.enabled, httpRoute.create)": Where(LABELS, ROUTE),
    "with provider gke a policy has it": Where({**ROUTE, **provider("gke")}, ROUTE),
}  # fmt: skip


def at(path: str, value: object) -> Object:
    """Values with one of them."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


@cache
def defaults() -> Mapping[str, Any]:
    """By the name of each value, in either family's names."""
    whole: Object = yaml.safe_load((CHARTS / "epplib" / "values.yaml").read_text())
    found: dict[str, Any] = {}

    def walk(below: Object, before: str) -> None:
        for key, value in below.items():
            path = before + key
            found[path] = found[in_llm_d(path)] = value
            if isinstance(value, dict):
                walk(value, f"{path}.")

    walk(whole, "")
    return found


def each(names: list[str]) -> list[str]:
    """With everything below a name that ends in `.*`, but for what turns it on."""
    found: list[str] = []
    for name in names:
        below = children(name.removesuffix(".*")) if name.endswith(".*") else [name]
        found += [path for path in below if not (name.endswith(".*") and re.search(r"\.(enabled|create)$", path))]
    return found


@pytest.mark.parametrize(("names", "because"), [pytest.param(n, b, id=b) for n, b in without_effect()])
def test_values_are_named_where_they_do_nothing_and_only_there(
    names: list[str], because: str, remarks: Remarks
) -> None:
    where = ROWS[because]
    of_llm_d = [path for path in each(names) if path.startswith(("router.", "httpRoute."))]
    of_gie = [path for path in each(names) if path not in of_llm_d]

    for paths, idle in ((of_gie, where.idle), (of_llm_d, where.idle_llm_d or where.idle)):
        given: Object = {}
        for path in paths:
            given = merged(given, at(path, sample(path, defaults().get(path))))
        named = {remark.partition(" has no effect: ")[0] for remark in remarks(merged(idle, given))} if paths else set()
        assert named >= set(paths)
        if where.used is not None and paths:
            said = remarks(merged(where.used, given))
            assert [path for path in paths if f"{path} has no effect: {because}" in said] == []


@pytest.mark.parametrize("family", ["gie", "llm-d"])
def test_whatever_changes_nothing_is_named(family: str, chart: Path) -> None:
    """By the schema: no value is forgotten that does nothing by itself."""
    labels = LABELS if family == "gie" else {"router": {"modelServers": {"matchLabels": {"app": "vllm"}}}}
    paths = [v.path if family == "gie" else in_llm_d(v.path) for v in values() if v.default]
    usual = without_remarks(render(Case(str(chart), (), labels)))
    unnamed = []

    for path in filter(None, paths):
        value = sample(path, defaults().get(path))
        if value == defaults().get(path):
            continue  # there is but one
        given = merged(labels, at(path, value))
        try:
            made = render(Case(str(chart), (), given))
        except ChartError:
            continue  # what is refused is told, too
        named = tuple(remark.partition(" has no effect: ")[0] + "." for remark in made.one("Remarks")["said"])
        if without_remarks(made) == usual and not f"{path}.".startswith(named):
            unnamed.append(path)

    assert unnamed == []


def without_remarks(made: Rendered) -> list[Object]:
    return [o for o in made.objects if o["kind"] != "Remarks"]


def test_defaults_that_are_written_out_are_not_named(remarks: Remarks) -> None:
    """As values files are often begun: with a copy of all defaults."""
    defaults = yaml.safe_load((CHARTS / "epplib" / "values.yaml").read_text())

    assert remarks(merged(defaults, LABELS)) == []
