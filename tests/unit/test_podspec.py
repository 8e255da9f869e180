"""The test node reads Pods as a kubelet does, or what it shows about manifests and charts is worth nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.node import podspec
from tests.support.node.podspec import NotYetError

POD: dict[str, Any] = {
    "metadata": {"name": "epp-0", "namespace": "llm", "labels": {"app": "epp"}, "annotations": {"a/b": "c"}},
    "spec": {"nodeName": "n1", "serviceAccountName": "epp"},
    "status": {"podIP": "10.1.2.3"},
}
STORED = {
    ("ConfigMap", "settings"): {"LEVEL": b"3", "file.yaml": b"a: 1\n"},
    ("Secret", "keys"): {"token": b"hush"},
}


def read(kind: str, name: str) -> Mapping[str, bytes] | None:
    return STORED.get((kind, name))


def environment(*entries: dict[str, Any], **container: Any) -> dict[str, str]:
    return podspec.environment(POD, {"env": list(entries), **container}, read, {"SERVICE": "10.0.0.1"})


def test_names_are_expanded_where_they_are_known() -> None:
    expanded = podspec.expand("--ns=$(NS) $(UNKNOWN) $$(NS) $NS", {"NS": "llm"})

    assert expanded == "--ns=llm $(UNKNOWN) $(NS) $NS"


def test_later_variables_see_earlier_ones() -> None:
    found = environment({"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(SERVICE)"})

    assert found["B"] == "1-10.0.0.1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "epp-0"),
        ("metadata.namespace", "llm"),
        ("metadata.labels['app']", "epp"),
        ("metadata.annotations['a/b']", "c"),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "epp"),
        ("status.podIP", "10.1.2.3"),
        ("status.podIPs", "10.1.2.3"),
    ],
)
def test_fields_of_the_pod_become_variables(path: str, value: str) -> None:
    assert environment({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}})["X"] == value


def test_config_maps_and_secrets_become_variables() -> None:
    found = environment(
        {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "LEVEL"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "other", "key": "x", "optional": True}}},
        envFrom=[{"secretRef": {"name": "keys"}, "prefix": "KEY_"}],
    )

    assert (found["LEVEL"], found["KEY_token"], "NONE" in found) == ("3", "hush", False)


def test_a_missing_config_map_keeps_the_container_waiting_and_is_named() -> None:
    with pytest.raises(NotYetError, match='configmap "nothing" not found'):
        environment({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "nothing", "key": "x"}}})


@pytest.mark.parametrize(
    ("container", "argv"),
    [
        ({}, ["epp", "run"]),
        ({"args": ["check", "$(N)"]}, ["epp", "check", "1"]),
        ({"command": ["sh"]}, ["sh"]),
        ({"command": ["sh"], "args": ["-c"]}, ["sh", "-c"]),
    ],
)
def test_command_and_args_replace_entrypoint_and_arguments_as_the_documentation_says(
    container: dict[str, Any], argv: list[str]
) -> None:
    assert podspec.command_line(container, ["epp"], ["run"], {"N": "1"}) == argv


def test_a_projected_volume_holds_what_its_sources_hold() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "a"}},
        {"configMap": {"name": "settings", "items": [{"key": "file.yaml", "path": "sub/epp.yaml"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"secret": {"name": "keys", "items": [{"key": "token", "path": "key"}]}},
    ]

    files = podspec.volume_files(
        POD, {"projected": {"sources": sources}}, read, lambda s: f"for {s['audience']}".encode()
    )

    assert files == {"token": b"for a", "sub/epp.yaml": b"a: 1\n", "namespace": b"llm", "key": b"hush"}


def test_services_are_told_as_variables_but_headless_ones_are_not() -> None:
    service = {
        "metadata": {"name": "my-epp"},
        "spec": {"clusterIP": "10.0.0.7", "ports": [{"name": "grpc-ext-proc", "port": 9002}]},
    }
    headless = {"metadata": {"name": "other"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}

    assert podspec.service_variables([service, headless]) == {
        "MY_EPP_SERVICE_HOST": "10.0.0.7",
        "MY_EPP_SERVICE_PORT": "9002",
        "MY_EPP_SERVICE_PORT_GRPC_EXT_PROC": "9002",
        "MY_EPP_PORT": "tcp://10.0.0.7:9002",
    }
