"""Objects of the five kinds, good and bad ones, each named by what it proves. Pure data; who judges them is elsewhere.

A case changes one thing of a good object, so that a verdict can only come from that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

Object = dict[str, Any]

REMOVED: Final = object()
"""As a value: the key is taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind as an API server knows it; `good` is a whole object of it, without apiVersion, kind and metadata."""

    group: str
    version: str
    plural: str
    kind: str
    good: Object

    @property
    def definition(self) -> str:
        """Name of its CustomResourceDefinition."""
        return f"{self.plural}.{self.group}"


@dataclass(frozen=True, slots=True)
class Case:
    """`content` is what stands beside apiVersion, kind and metadata."""

    kind: Kind
    proves: str
    good: bool
    content: Object
    strict: bool = True  # unknown fields are errors, as for kubectl
    of_status: bool = False  # judged as a write of the status of a good object

    def __str__(self) -> str:
        return f"{self.kind.kind} of {self.kind.group}: {self.proves}"


_ALPHA: Final = "inference.networking.x-k8s.io"
_LLM_D: Final = "llm-d.ai"
_CONDITION: Final = {
    "type": "Accepted",
    "status": "True",
    "reason": "Accepted",
    "message": "",
    "lastTransitionTime": "2026-01-02T03:04:05Z",
}
_PICKER: Final = {"name": "epp", "port": {"number": 9002}}

POOL: Final = Kind(
    group="inference.networking.k8s.io",
    version="v1",
    plural="inferencepools",
    kind="InferencePool",
    good={
        "spec": {
            "selector": {"matchLabels": {"app": "vllm"}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": _PICKER,
        }
    },
)
IMPORT: Final = Kind(
    group=_ALPHA, version="v1alpha1", plural="inferencepoolimports", kind="InferencePoolImport", good={}
)


def _objective(group: str) -> Kind:
    good = {"spec": {"poolRef": {"name": "pool"}, "priority": 1}}
    return Kind(group=group, version="v1alpha2", plural="inferenceobjectives", kind="InferenceObjective", good=good)


def _rewrite(group: str) -> Kind:
    rule = {
        "matches": [{"model": {"value": "asked"}}],
        "targets": [{"modelRewrite": "served", "weight": 1}],
    }
    good = {"spec": {"poolRef": {"name": "pool"}, "rules": [rule]}}
    return Kind(
        group=group, version="v1alpha2", plural="inferencemodelrewrites", kind="InferenceModelRewrite", good=good
    )


OBJECTIVES: Final = (_objective(_ALPHA), _objective(_LLM_D))
REWRITES: Final = (_rewrite(_ALPHA), _rewrite(_LLM_D))
KINDS: Final = (POOL, IMPORT, *OBJECTIVES, *REWRITES)


def cases() -> Iterator[Case]:
    """All of them."""
    for kind in KINDS:
        yield Case(kind, "a good object", True, kind.good)
        yield Case(kind, "an unknown field is an error where the writer wants it", False, {**kind.good, "spek": {}})
        yield Case(kind, "an unknown field is dropped otherwise", True, {**kind.good, "spek": {}}, strict=False)
    yield from _of_pools()
    yield from _of_pool_status()
    yield from _of_imports()
    for kind in OBJECTIVES:
        yield from _of_objectives(kind)
    for kind in REWRITES:
        yield from _of_rewrites(kind)


def _changed(kind: Kind, path: str, value: Any) -> Object:
    """The good object with the value at a dotted path replaced, numbers being places in lists."""
    content = copy.deepcopy(kind.good)
    *parents, last = path.split(".")
    at: Any = content
    for step in parents:
        at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
    key: Any = int(last) if isinstance(at, list) else last
    if value is REMOVED:
        del at[key]
    else:
        at[key] = value
    return content


def _table(kind: Kind, good: dict[str, tuple[str, Any]], bad: dict[str, tuple[str, Any]]) -> Iterator[Case]:
    for verdict, rows in ((True, good), (False, bad)):
        for proves, (path, value) in rows.items():
            yield Case(kind, proves, verdict, _changed(kind, path, value))


def _of_pools() -> Iterator[Case]:
    labels, ports, picker = "spec.selector.matchLabels", "spec.targetPorts", "spec.endpointPickerRef"
    good = {
        "a label's value may be empty": (labels, {"app": ""}),
        "a label's value may have 63 characters": (labels, {"app": "v" * 63}),
        "there may be 64 labels": (labels, {f"l{i}": "v" for i in range(64)}),
        "there may be 8 ports": (ports, [{"number": 8000 + i} for i in range(8)]),
        "port 1 is a port": (ports, [{"number": 1}]),
        "port 65535 is a port": (ports, [{"number": 65535}]),
        "HTTP/2 without TLS is a protocol": ("spec.appProtocol", "kubernetes.io/h2c"),
        "http is a protocol": ("spec.appProtocol", "http"),
        "a pool may fail open": (f"{picker}.failureMode", "FailOpen"),
        "a pool may fail closed": (f"{picker}.failureMode", "FailClose"),
        "what is no Service needs no port": (picker, {"name": "epp", "kind": "Picker", "group": "example.com"}),
        "the core group may be named by the empty string": (f"{picker}.group", ""),
        "a picker's name may have 253 characters": (f"{picker}.name", "n" * 253),
    }
    bad = {
        "a pool needs a spec": ("spec", REMOVED),
        "a pool needs a selector": ("spec.selector", REMOVED),
        "a selector needs labels": (labels, REMOVED),
        "a selector needs a label at least": (labels, {}),
        "65 labels are too many": (labels, {f"l{i}": "v" for i in range(65)}),
        "a label's value has no blank": (labels, {"app": "a b"}),
        "a label's value does not end in a dash": (labels, {"app": "a-"}),
        "a label's value of 64 characters is too long": (labels, {"app": "v" * 64}),
        "a label's value is a string": (labels, {"app": 1}),
        "selectors have no expressions": ("spec.selector.matchExpressions", []),
        "a pool needs ports": (ports, REMOVED),
        "a pool needs a port at least": (ports, []),
        "9 ports are too many": (ports, [{"number": 8000 + i} for i in range(9)]),
        "no port twice": (ports, [{"number": 8000}, {"number": 8000}]),
        "a port needs a number": (ports, [{}]),
        "0 is no port": (ports, [{"number": 0}]),
        "65536 is no port": (ports, [{"number": 65536}]),
        "a port is an integer": (ports, [{"number": "8000"}]),
        "a port has no fraction": (ports, [{"number": 8000.5}]),
        "h2c is not how the protocol is written": ("spec.appProtocol", "h2c"),
        "a pool needs a picker": (picker, REMOVED),
        "a picker needs a name": (f"{picker}.name", REMOVED),
        "a picker's name is not empty": (f"{picker}.name", ""),
        "a picker's name of 254 characters is too long": (f"{picker}.name", "n" * 254),
        "a Service needs a port": (f"{picker}.port", REMOVED),
        "a Service that is named as one needs a port": (picker, {"name": "epp", "kind": "Service"}),
        "a picker's port needs a number": (f"{picker}.port", {}),
        "a picker's port is above 0": (f"{picker}.port.number", 0),
        "a picker's port is at most 65535": (f"{picker}.port.number", 65536),
        "a picker's kind is not empty": (f"{picker}.kind", ""),
        "a picker's kind has no blank": (f"{picker}.kind", "My Service"),
        "a picker's kind of 64 characters is too long": (f"{picker}.kind", "K" * 64),
        "a picker's group is in lower case": (f"{picker}.group", "Example.com"),
        "failing half open is no failure mode": (f"{picker}.failureMode", "FailHalf"),
        "the name of the older API is not known": ("spec.targetPortNumber", 8000),
    }
    yield from _table(POOL, good, bad)


def _of_pool_status() -> Iterator[Case]:
    parent = {"parentRef": {"name": "gateway"}, "controllerName": "example.net/gateway", "conditions": [_CONDITION]}
    good: dict[str, list[Object]] = {
        "a gateway may write what it makes of a pool": [parent],
        "a gateway may write its reference alone": [{"parentRef": {"name": "gateway"}}],
        "there may be 32 gateways": [parent] * 32,
        "there may be 8 conditions": [{**parent, "conditions": [{**_CONDITION, "type": f"C{i}"} for i in range(8)]}],
        "a condition's type may have a domain": [{**parent, "conditions": [{**_CONDITION, "type": "a.io/Ready"}]}],
        "a generation may be named": [{**parent, "conditions": [{**_CONDITION, "observedGeneration": 2}]}],
    }
    bad: dict[str, list[Object]] = {
        "33 gateways are too many": [parent] * 33,
        "a gateway has a reference": [{"controllerName": "example.net/gateway"}],
        "a gateway's reference has a name": [{"parentRef": {}}],
        "a gateway's namespace is in lower case": [{"parentRef": {"name": "g", "namespace": "Infra"}}],
        "a controller's name has a path": [{**parent, "controllerName": "example.net"}],
        "9 conditions are too many": [{**parent, "conditions": [{**_CONDITION, "type": f"C{i}"} for i in range(9)]}],
        "no condition twice": [{**parent, "conditions": [_CONDITION, _CONDITION]}],
        "a condition needs a reason": [{**parent, "conditions": [{**_CONDITION, "reason": ""}]}],
        "a condition has no blank in its reason": [{**parent, "conditions": [{**_CONDITION, "reason": "a b"}]}],
        "a condition's status is one of three": [{**parent, "conditions": [{**_CONDITION, "status": "Maybe"}]}],
        "a condition's time is a time": [{**parent, "conditions": [{**_CONDITION, "lastTransitionTime": "noon"}]}],
        "a generation is not below 0": [{**parent, "conditions": [{**_CONDITION, "observedGeneration": -1}]}],
    }
    for verdict, rows in ((True, good), (False, bad)):
        for proves, parents in rows.items():
            yield Case(POOL, proves, verdict, {**POOL.good, "status": {"parents": parents}}, of_status=True)


def _of_imports() -> Iterator[Case]:
    controller: Object = {"name": "example.net/imports"}
    good: dict[str, Object] = {
        "a controller may write its name alone": {"controllers": [controller]},
        "a controller may name clusters": {"controllers": [{**controller, "exportingClusters": [{"name": "east"}]}]},
        "a controller may name gateways": {"controllers": [{**controller, "parents": [{"parentRef": {"name": "g"}}]}]},
        "a controller may write conditions": {"controllers": [{**controller, "conditions": [_CONDITION]}]},
        "there may be 8 controllers": {"controllers": [{"name": f"example.net/{i}"} for i in range(8)]},
    }
    bad: dict[str, Object] = {
        "a status needs controllers": {},
        "9 controllers are too many": {"controllers": [{"name": f"example.net/{i}"} for i in range(9)]},
        "no controller twice": {"controllers": [controller, controller]},
        "a controller needs a name": {"controllers": [{"conditions": [_CONDITION]}]},
        "a controller's name has a path": {"controllers": [{"name": "imports"}]},
        "a cluster needs a name": {"controllers": [{**controller, "exportingClusters": [{}]}]},
        "a cluster's name is not empty": {"controllers": [{**controller, "exportingClusters": [{"name": ""}]}]},
        "a gateway has a reference": {"controllers": [{**controller, "parents": [{}]}]},
    }
    for verdict, rows in ((True, good), (False, bad)):
        for proves, status in rows.items():
            yield Case(IMPORT, proves, verdict, {"status": status}, of_status=True)


def _of_references(kind: Kind) -> Iterator[Case]:
    reference = "spec.poolRef"
    good = {
        "a reference may name group and kind": (reference, {"name": "p", "group": "a.io", "kind": "Pool"}),
        "a reference's group may be the core group": (f"{reference}.group", ""),
    }
    bad = {
        "a reference is needed": (reference, REMOVED),
        "a reference needs a name": (f"{reference}.name", REMOVED),
        "a reference's name is not empty": (f"{reference}.name", ""),
        "a reference's name of 254 characters is too long": (f"{reference}.name", "n" * 254),
        "a reference's kind has no blank": (f"{reference}.kind", "My Pool"),
        "a reference's group has no version": (f"{reference}.group", "inference.networking.k8s.io/v1"),
    }
    yield from _table(kind, good, bad)


def _of_conditions(kind: Kind) -> Iterator[Case]:
    def status(proves: str, good: bool, value: Object) -> Case:
        return Case(kind, proves, good, {**kind.good, "status": value}, of_status=True)

    yield status("an empty status gets the condition that nobody has looked yet", True, {})
    yield status("a condition may be written", True, {"conditions": [_CONDITION]})
    yield status("a condition needs a time", False, {"conditions": [{**_CONDITION, "lastTransitionTime": ""}]})
    yield status("no condition twice", False, {"conditions": [_CONDITION, _CONDITION]})


def _of_objectives(kind: Kind) -> Iterator[Case]:
    priority = "spec.priority"
    wide = Case(kind, "a priority beyond 32 bits", kind.group == _ALPHA, _changed(kind, priority, 2**31))
    good = {
        "an objective may have no priority": (priority, REMOVED),
        "a priority may be below 0": (priority, -10),
        "a priority may be the largest of 32 bits": (priority, 2**31 - 1),
        "an objective may be empty": ("spec", REMOVED),
    }
    bad = {
        "a priority is an integer": (priority, "high"),
        "a priority has no fraction": (priority, 0.5),
        "models are not part of an objective": ("spec.targetModels", [{"name": "m"}]),
    }
    yield wide
    yield from _table(kind, good, bad)
    yield from _of_references(kind)
    yield from _of_conditions(kind)


def _of_rewrites(kind: Kind) -> Iterator[Case]:
    rule, target = "spec.rules.0", "spec.rules.0.targets.0"
    good = {
        "there may be no rules": ("spec.rules", []),
        "a rule may match everything": (f"{rule}.matches", REMOVED),
        "a rule may have no targets": (f"{rule}.targets", REMOVED),
        "weights may be left out": (f"{target}.weight", REMOVED),
        "a weight may be a million": (f"{target}.weight", 1_000_000),
        "names are compared exactly": (f"{rule}.matches.0.model.type", "Exact"),
        "a model's new name may be empty": (f"{target}.modelRewrite", ""),
    }
    bad = {
        "rules are needed": ("spec.rules", REMOVED),
        "targets are not empty": (f"{rule}.targets", []),
        "a target needs a model": (f"{target}.modelRewrite", REMOVED),
        "a weight is above 0": (f"{target}.weight", 0),
        "a weight is at most a million": (f"{target}.weight", 1_000_001),
        "a weight is an integer": (f"{target}.weight", "1"),
        "a match needs a model": (f"{rule}.matches", [{}]),
        "a model's name is needed": (f"{rule}.matches.0.model.value", REMOVED),
        "a model's name is not empty": (f"{rule}.matches.0.model.value", ""),
        "names are not compared by prefix": (f"{rule}.matches.0.model.type", "Prefix"),
    }
    yield from _table(kind, good, bad)
    yield from _of_references(kind)
    yield from _of_conditions(kind)
