"""Which kinds an API server has: definitions of ours may be of either group, of one version or another, or not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def _names(items: Any, key: str) -> list[str]:
    return [str(item.get(key)) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
