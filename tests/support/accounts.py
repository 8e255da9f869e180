"""Service accounts with exactly the rights that a test gives them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests.support.control_plane import ControlPlane
from tests.support.kube_api import KubeApi

Rules = Sequence[dict[str, Any]]

LEASE_RULES: Rules = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
]
REVIEW_RULES: Rules = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
METRICS_RULES: Rules = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def make_account(
    plane: ControlPlane, name: str, *, namespace: str, rules: Rules = (), cluster_rules: Rules = ()
) -> str:
    """A token of a new account, which may do what the rules say: those of a Role, and those of a ClusterRole.

    Returns once the server knows that: it learns of roles a moment after they are there.
    """
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    plane.api.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        namespace=namespace,
    )
    for kind, given, where, full in (
        ("Role", rules, namespace, name),
        ("ClusterRole", cluster_rules, "", f"{namespace}-{name}"),
    ):
        if not given:
            continue
        metadata = {"name": full}
        plane.api.create(
            {"apiVersion": f"{rbac}/v1", "kind": kind, "metadata": metadata, "rules": list(given)}, namespace=where
        )
        binding = {"apiVersion": f"{rbac}/v1", "kind": f"{kind}Binding", "metadata": metadata, "subjects": [subject]}
        plane.api.create(binding | {"roleRef": {"apiGroup": rbac, "kind": kind, "name": full}}, namespace=where)
    token = plane.api.service_account_token(name, namespace=namespace)
    with contextlib.closing(plane.as_user(token)) as api:
        for action in (*_actions(rules, namespace), *_actions(cluster_rules, "")):
            plane.until(partial(_may, api, action), f"{name} may not {action}")
    return token


def _actions(rules: Rules, namespace: str) -> Iterator[dict[str, Any]]:
    """What the rules allow, each as the attributes of an access review."""
    for rule in rules:
        for verb in rule["verbs"]:
            for path in rule.get("nonResourceURLs", ()):
                yield {"nonResourceAttributes": {"path": path, "verb": verb}}
            for group, resource in product(rule.get("apiGroups", ()), rule.get("resources", ())):
                plural, _, subresource = resource.partition("/")
                named = {"group": group, "resource": plural, "subresource": subresource, "namespace": namespace}
                yield {"resourceAttributes": named | {"verb": verb}}


def _may(api: KubeApi, action: dict[str, Any]) -> bool:
    version, kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
    review = api.create({"apiVersion": version, "kind": kind, "metadata": {}, "spec": action})
    return bool(review["status"]["allowed"])


def account_kubeconfig(plane: ControlPlane, name: str, *, namespace: str, **rules: Rules) -> Path:
    """The same as a kubeconfig file."""
    token = make_account(plane, name, namespace=namespace, **rules)
    return plane.write_kubeconfig(f"{namespace}-{name}", token, namespace=namespace)
