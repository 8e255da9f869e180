"""The configuration as written: every field of an EndpointPickerConfig, with places, before any default is filled in."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.config.document import Fields
from epp.config.problems import Place, Problem

API_VERSION: Final = "llm-d.ai/v1alpha1"
DEPRECATED_API_VERSION: Final = "inference.networking.x-k8s.io/v1alpha1"
KIND: Final = "EndpointPickerConfig"

FEATURE_GATES: Final[dict[str, bool]] = {
    "flowControl": False,
    "haPopulateNonLeaderDatastore": True,
}  # with their defaults


class Reference(msgspec.Struct, frozen=True):
    """The name of a plugin instance, used at `place`."""

    name: str
    place: Place


class PluginEntry(msgspec.Struct, frozen=True):
    """One element of `plugins`. An empty `name` means the type's name."""

    type: str
    name: str
    parameters: Fields | None
    place: Place
    type_place: Place
    name_place: Place
    parameters_place: Place


class ProfilePlugin(msgspec.Struct, frozen=True):
    """One element of a profile's `plugins`. `weight` is None where it was not given."""

    plugin: Reference
    weight: float | None
    weight_place: Place


class ProfileEntry(msgspec.Struct, frozen=True):
    name: str
    plugins: tuple[ProfilePlugin, ...]
    place: Place


class SourceEntry(msgspec.Struct, frozen=True):
    """A data source and the extractors that read what it fetches."""

    source: Reference
    extractors: tuple[Reference, ...]


class DataLayerEntry(msgspec.Struct, frozen=True):
    inject_defaults: bool = True
    sources: tuple[SourceEntry, ...] = ()
    discovery: Reference | None = None
    peer_discovery: Reference | None = None


class Band(msgspec.Struct, frozen=True):
    """Limits and policies of one priority. Limits of 0 mean the default; policies are instance names, empty: the default."""

    priority: int = 0
    max_bytes: int = 0
    max_requests: int = 0
    fairness_policy: str = ""
    ordering_policy: str = ""


class FlowControl(msgspec.Struct, frozen=True):
    """The section `flowControl`. Limits of 0 mean unlimited; times are seconds, None where not given."""

    max_bytes: int = 0
    max_requests: int = 0
    default_request_ttl_s: float | None = None
    no_endpoint_request_ttl_s: float | None = None
    default_band: Band | None = None
    default_negative_band: Band | None = None
    bands: tuple[Band, ...] = ()
    usage_limit_policy: str = ""
    enable_eviction: bool = False


class FlowControlEntry(msgspec.Struct, frozen=True):
    """What `flowControl` says and what it refers to. `policies` pairs each reference with the kind of policy expected."""

    settings: FlowControl
    saturation_detector: Reference | None
    policies: tuple[tuple[Reference, str], ...]
    place: Place


class ConfigFile(msgspec.Struct, frozen=True):
    """A configuration as far as it could be read. `built_in`: nothing was configured, this is the default one."""

    file: str
    plugins: tuple[PluginEntry, ...] = ()
    profiles: tuple[ProfileEntry, ...] = ()
    feature_gates: dict[str, bool] = {}  # those that are named
    gates_place: Place = Place()
    parsers: tuple[Reference, ...] = ()
    saturation_detector: Reference | None = None
    data_layer: DataLayerEntry = DataLayerEntry()
    flow_control: FlowControlEntry | None = None
    built_in: bool = False


class Loaded(msgspec.Struct, frozen=True):
    """What reading a text gave. `config` is None when there is no mapping to read; then `problems` says why."""

    config: ConfigFile | None
    problems: tuple[Problem, ...] = ()
