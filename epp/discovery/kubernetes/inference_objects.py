"""Priorities, SLOs and rewrites that InferenceObjectives and InferenceModelRewrites of both API groups make. Pure.

They are read as files of them are. Where both groups have an object of the same kind and name, llm-d's counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from epp.api import Slo
from epp.data.rewrites import ModelRewrite
from epp.discovery.kubernetes.objects import Custom, ObjectKey
from epp.discovery.kubernetes.resources import EXPERIMENTAL_GROUP, LLM_D_GROUP, Resource
from epp.discovery.object_files import OBJECTIVE, REWRITE, Object, Objective, Pool, parse_object

_log: Final = logging.getLogger(__name__)

GROUPS: Final = (EXPERIMENTAL_GROUP, LLM_D_GROUP)  # the later one counts
KINDS: Final = {OBJECTIVE: "inferenceobjectives", REWRITE: "inferencemodelrewrites"}


class InferenceObjects:
    """All that can be used, by group, kind and key. `refused` counts objects that could not."""

    def __init__(self, pool: Pool) -> None:
        self.refused = 0
        self._pool = pool
        self._made: dict[tuple[str, str, ObjectKey], Object] = {}

    def apply(self, kind: str, resource: Resource, changes: Mapping[ObjectKey, Custom | None]) -> bool:
        """Take changes of one kind in; whether anything is different now."""
        before = dict(self._made)
        for key, obj in changes.items():
            place = (resource.group, kind, key)
            made = None if obj is None else self._read(kind, resource, obj)
            if made is None:
                self._made.pop(place, None)
            else:
                self._made[place] = made
        return self._made != before

    @property
    def priorities(self) -> dict[str, int | None]:
        """By the objective's name."""
        return {made.name: made.priority for made in self._latest(OBJECTIVE) if isinstance(made, Objective)}

    @property
    def slos(self) -> dict[str, Slo]:
        """The same of latencies."""
        return {made.name: made.slo for made in self._latest(OBJECTIVE) if isinstance(made, Objective)}

    @property
    def rewrites(self) -> list[ModelRewrite]:
        return [made for made in self._latest(REWRITE) if isinstance(made, ModelRewrite)]

    def _latest(self, kind: str) -> list[Object]:
        found = {
            key: made
            for group in GROUPS
            for (of, known_kind, key), made in self._made.items()
            if of == group and known_kind == kind
        }
        return list(found.values())

    def _read(self, kind: str, resource: Resource, obj: Custom) -> Object | None:
        """None for an object of another pool, and for one that cannot be used. The log says why, and what is ignored."""
        metadata = obj.metadata
        name = f"{kind}.{resource.group} {metadata.namespace}/{metadata.name}"
        if metadata.deletion_timestamp is not None:
            return None
        value = {
            "apiVersion": f"{resource.group}/{resource.version}",
            "kind": kind,
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "creationTimestamp": metadata.creation_timestamp,
                "annotations": metadata.annotations,
            },
            "spec": msgspec.json.decode(obj.spec),
        }
        file = parse_object(value, name, self._pool)
        if file.errors:
            self.refused += 1
        for problem in file.problems:
            _log.warning("%s", problem)
        return next(iter(file.objects.values()), None)
