"""Names of kinds of objects in the API, and the paths under which they are found. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgspec


class Resource(msgspec.Struct, frozen=True):
    """One kind of objects: `plural` of `group` ("" is the core group), of one namespace ("": of all, or of none)."""

    group: str
    version: str
    plural: str
    namespace: str = ""

    def path(self, name: str = "") -> str:
        """Of all of them, or of one."""
        parts = ["api" if not self.group else "apis/" + self.group, self.version]
        if self.namespace:
            parts += ["namespaces", quote(self.namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        return "/" + "/".join(parts)


INFERENCE_GROUP: Final = "inference.networking.k8s.io"
EXPERIMENTAL_GROUP: Final = "inference.networking.x-k8s.io"
LLM_D_GROUP: Final = "llm-d.ai"


def pods(namespace: str) -> Resource:
    return Resource("", "v1", "pods", namespace)


def leases(namespace: str) -> Resource:
    return Resource("coordination.k8s.io", "v1", "leases", namespace)


TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews")
