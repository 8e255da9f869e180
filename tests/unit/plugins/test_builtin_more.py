from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest

from epp.api import Plugin
from epp_plugins.builtin_more import MORE
from epp_plugins.registry import BUILTIN

ALLOWED = {"epp", "epp_plugins", "epp_predictor", "numpy", "msgspec"} | sys.stdlib_module_names
EXPERIMENTAL = {
    "endpoint-attribute-filter",
    "endpoint-attribute-scorer",
    "session-affinity-filter",
    "session-affinity-scorer",
    "topology-affinity-filter",
    "topology-affinity-scorer",
    "header-label-affinity-scorer",
    "header-profile-handler",
    "p2p-source-producer",
    "burst-prefix-cache-producer",
    "disaggregatedset-rollout-screener",
    "agent-identity",
    "multicluster-session-affinity-filter",
    "multicluster-queue-scorer",
    "multicluster-kv-cache-utilization-scorer",
    "multicluster-prefix-cache-scorer",
    "multicluster-approx-prefix-cache-producer",
}


def test_all_are_registered() -> None:
    assert {plugin.type for plugin in MORE} <= set(BUILTIN)


@pytest.mark.parametrize("plugin", MORE, ids=lambda p: p.type)
def test_file_is_named_as_its_type(plugin: type[Plugin]) -> None:
    assert plugin.__module__.rpartition(".")[2] == plugin.type.replace("-", "_")


@pytest.mark.parametrize("plugin", MORE, ids=lambda p: p.type)
def test_of_the_service_only_its_api_is_imported(plugin: type[Plugin]) -> None:
    tree = ast.parse(Path(inspect.getfile(plugin)).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    allowed = ALLOWED | ({"cel"} if plugin.type == "request-attribute-reporter" else set())

    assert {module for module in imported if module.startswith("epp.")} <= {"epp.api"}
    assert {module.partition(".")[0] for module in imported} <= allowed


def test_only_what_is_alpha_upstream_is_experimental() -> None:
    assert {plugin.type for plugin in MORE if plugin.experimental} == EXPERIMENTAL
