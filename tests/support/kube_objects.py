"""Pods and pools as an API server has them, small."""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]


def make_pod(
    name: str,
    ip: str = "10.0.0.1",
    *,
    ready: bool = True,
    uid: str = "",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    namespace: str = "default",
    version: str = "",
    deleted: bool = False,
    phase: str = "Running",
    host_ip: str = "",
) -> Obj:
    metadata: Obj = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "labels": labels or {}}
    if annotations:
        metadata["annotations"] = annotations
    if version:
        metadata["resourceVersion"] = version
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status: Obj = {"phase": phase, "podIP": ip, "conditions": conditions}
    if host_ip:
        status["hostIP"] = host_ip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}


def make_pool(name: str = "pool", *ports: int, labels: dict[str, str] | None = None, namespace: str = "default") -> Obj:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels or {"app": "vllm"}},
            "targetPorts": [{"number": port} for port in ports or (8000,)],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        },
    }


def make_objective(name: str, priority: int, *, group: str = "llm-d.ai", pool: str = "pool") -> Obj:
    return {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"priority": priority, "poolRef": {"name": pool}},
    }


def make_rewrite(name: str, model: str, target: str, *, group: str = "llm-d.ai", pool: str = "pool") -> Obj:
    rule = {
        "matches": [{"model": {"type": "Exact", "value": model}}],
        "targets": [{"modelRewrite": target, "weight": 1}],
    }
    return {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"poolRef": {"name": pool}, "rules": [rule]},
    }
