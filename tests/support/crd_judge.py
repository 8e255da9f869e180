"""Asks an API server for its verdict on objects, by definitions that stand under a group of their own. Tests only.

So that the definitions of two origins can be asked side by side, and nobody else's objects are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.control_plane import ControlPlane
from tests.support.crd_cases import Case, Kind
from tests.support.kube_api import MERGE, ApiError, Object

_DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
_OWNER = "owner-of-status"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the object was taken, and what it then is (defaults filled in, unknown fields dropped), without metadata."""

    good: bool
    content: Object | None = None
    complaint: str = ""


class Judge:
    """Judges by `definitions`, in `namespace`. `origin` goes before the dot of their groups."""

    def __init__(self, plane: ControlPlane, origin: str, definitions: Sequence[Object], *, namespace: str) -> None:
        self._api = plane.api
        self._origin = origin
        self._namespace = namespace
        names = [self._install(definition) for definition in definitions]
        plane.until(lambda: all(map(self._is_served, names)), f"not all of {', '.join(names)} are served")

    def verdict(self, case: Case) -> Verdict:
        """Nothing is kept but one object of each kind, for a status to belong to."""
        try:
            answer = self._write_status(case) if case.of_status else self._write(case)
        except ApiError as error:
            if error.status not in (400, 422):
                raise  # no judgement of the object
            return Verdict(False, complaint=str(error))
        return Verdict(True, {key: answer[key] for key in ("spec", "status") if key in answer})

    def _write(self, case: Case) -> Object:
        query = {"dryRun": "All", "fieldValidation": "Strict" if case.strict else "Ignore"}
        return self._api.request("POST", self._path(case.kind), self._object(case.kind, case.content), query=query)

    def _write_status(self, case: Case) -> Object:
        try:
            self._api.request("POST", self._path(case.kind), self._object(case.kind, case.kind.good))
        except ApiError as error:
            if error.status != 409:
                raise
        path = f"{self._path(case.kind)}/{_OWNER}/status"
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        return self._api.request("PATCH", path, {"status": case.content["status"]}, content_type=MERGE, query=query)

    def _install(self, definition: Object) -> str:
        group = self._group(definition["spec"]["group"])
        name = f"{definition['spec']['names']['plural']}.{group}"
        metadata = {**definition["metadata"], "name": name}
        self._api.apply({**definition, "metadata": metadata, "spec": {**definition["spec"], "group": group}})
        return name

    def _is_served(self, name: str) -> bool:
        definition = self._api.get(*_DEFINITION, name)
        plural, group = definition["spec"]["names"]["plural"], definition["spec"]["group"]
        version = definition["spec"]["versions"][0]["name"]
        try:
            self._api.request("GET", f"/apis/{group}/{version}/{plural}")
        except ApiError:
            return False
        return True

    def _object(self, kind: Kind, content: Object) -> Object:
        version = f"{self._group(kind.group)}/{kind.version}"
        return {"apiVersion": version, "kind": kind.kind, "metadata": {"name": _OWNER}, **content}

    def _path(self, kind: Kind) -> str:
        return f"/apis/{self._group(kind.group)}/{kind.version}/namespaces/{self._namespace}/{kind.plural}"

    def _group(self, group: str) -> str:
        return f"{self._origin}.{group}"
