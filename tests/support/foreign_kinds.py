"""Definitions of kinds that others define: those of gateways and of monitoring, which our charts and manifests make objects of.

Enough for an API server to know the names and to keep any content. Tests only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

FOREIGN: Final = (
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("monitoring.googleapis.com", "v1", "PodMonitoring", "podmonitorings"),
    ("networking.istio.io", "v1", "DestinationRule", "destinationrules"),
    ("networking.gke.io", "v1", "HealthCheckPolicy", "healthcheckpolicies"),
    ("networking.gke.io", "v1", "GCPBackendPolicy", "gcpbackendpolicies"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
)


def write_definitions(folder: Path) -> Path:
    """A file in `folder` for kubectl to apply."""
    path = folder / "foreign.yaml"
    path.write_text(yaml.safe_dump_all(_definition(*kind) for kind in FOREIGN))
    return path


def _definition(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }
