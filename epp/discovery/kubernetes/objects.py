"""The fields of Kubernetes objects that are read, as they are on the wire. Pure.

Decoding into these skips everything else at a speed that building dicts does not reach.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

ObjectKey: TypeAlias = tuple[str, str]  # namespace, name


class Meta(msgspec.Struct, rename="camel"):
    """meta/v1 ObjectMeta."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @property
    def key(self) -> ObjectKey:
        return self.namespace, self.name


class Object(msgspec.Struct):
    """Any object: what it is called, and how new it is."""

    metadata: Meta


class Condition(msgspec.Struct):
    type: str
    status: str = ""


class PodStatus(msgspec.Struct, rename="camel"):
    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    host_ip: str = msgspec.field(default="", name="hostIP")
    conditions: list[Condition] | None = None


class Pod(Object):
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class TargetPort(msgspec.Struct):
    number: int


class PoolSpec(msgspec.Struct, rename="camel"):
    """Of InferencePool v1; with `target_port_number`, and labels directly in `selector`, of v1alpha2."""

    selector: dict[str, Any]
    target_ports: list[TargetPort] | None = None
    target_port_number: int | None = None
    app_protocol: str = ""


class InferencePool(Object):
    spec: PoolSpec


class Custom(Object, rename="camel"):
    """An object whose spec is read elsewhere."""

    api_version: str = ""
    kind: str = ""
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class Whole(Object):
    """An object with all that it has."""

    body: dict[str, Any]


class WholeDecoder:
    """As `msgspec.json.Decoder`."""

    def decode(self, raw: msgspec.Raw) -> Whole:
        """Raises msgspec.DecodeError."""
        body = msgspec.json.decode(raw, type=dict[str, Any])
        return Whole(msgspec.convert(body, Object).metadata, body)
