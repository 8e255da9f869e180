"""Which kinds an API server has: definitions of ours may be of either group, of one version or another, or not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from epp.api import ObjectKind
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.errors import Forbidden, NotFound
from epp.discovery.kubernetes.resources import Resource


async def find(api: Api, group: str, plural: str, *, versions: Sequence[str], namespace: str) -> Resource | None:
    """The kind by the first of `versions` that the server has; None when it has none. Raises ApiError.

    A server that does not tell (clusters may take that right away) is taken to have the first one.
    """
    try:
        served = await api.fetch(f"/apis/{group}")
        for version in versions:
            if version not in _names(served.get("versions"), "version"):
                continue
            resources = await api.fetch(f"/apis/{group}/{version}")
            if plural in _names(resources.get("resources"), "name"):
                return Resource(group, version, plural, namespace)
    except NotFound:
        return None
    except Forbidden:
        return Resource(group, versions[0], plural, namespace)
    return None


async def find_kind(api: Api, kind: ObjectKind, *, namespace: str) -> Resource | None:
    """By the name of the kind; None when there is none. Raises ApiError."""
    path = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    try:
        served = await api.fetch(path)
    except NotFound:
        return None
    items = served.get("resources")
    for item in items if isinstance(items, list) else ():
        name = item.get("name", "")
        if (
            item.get("kind") == kind.kind and "/" not in name
        ):  # what has a slash is a part of objects, such as their status
            return Resource(kind.group, kind.version, name, namespace if item.get("namespaced") else "")
    return None


def _names(items: Any, key: str) -> list[str]:
    return [str(item.get(key)) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
