"""The configuration with every default filled in: what runs, in which order, with which parameters. Hashed, and written out."""

from __future__ import annotations

import builtins
import hashlib
from typing import Any, Final

import msgspec
import yaml

from epp.api import Plugin
from epp.config.durations import format_duration
from epp.config.model import API_VERSION, KIND, Band, FlowControl
from epp.config.problems import Place, Problem
from epp.config.scalars import plain_value

HASH_DIGITS: Final = 12


class PluginSpec(msgspec.Struct, frozen=True):
    """One plugin instance. `written` holds its parameters as given, `params` all of them. `default`: it was not asked for."""

    name: str
    type: str
    cls: builtins.type[Plugin]
    params: msgspec.Struct
    written: dict[str, Any]
    default: bool
    place: Place


class ProfileSpec(msgspec.Struct, frozen=True):
    """What runs in a profile. `members`: every name with its weight (None: not a scorer), in configuration order."""

    name: str
    members: tuple[tuple[str, float | None], ...]
    filters: tuple[str, ...]
    scorers: tuple[tuple[str, float], ...]
    picker: str
    default: bool
    place: Place


class LeftOut(msgspec.Struct, frozen=True):
    """A plugin that is accepted and does not run, because the part of the service that it belongs to is not there."""

    name: str
    type: str
    written: dict[str, Any]


class SourceSpec(msgspec.Struct, frozen=True):
    source: str
    extractors: tuple[str, ...]


class DataLayer(msgspec.Struct, frozen=True):
    """Names of the data sources with their extractors, and of the discovery plugin (None: no plugin finds endpoints)."""

    sources: tuple[SourceSpec, ...] = ()
    discovery: str | None = None


class Resolved(msgspec.Struct, frozen=True):
    """Everything a configuration decides. `plugins`: configuration order, defaults last; `producers`: the order they run in."""

    file: str
    plugins: dict[str, PluginSpec]
    profiles: tuple[ProfileSpec, ...]
    handler: str
    parsers: tuple[str, ...]
    saturation_detector: str
    data_layer: DataLayer
    flow_control: FlowControl | None
    feature_gates: dict[str, bool]
    left_out: tuple[LeftOut, ...] = ()
    producers: tuple[str, ...] = ()
    produces: dict[str, tuple[str, ...]] = {}  # data keys by plugin name
    consumes: dict[str, tuple[str, ...]] = {}
    warnings: tuple[Problem, ...] = ()


def config_hash(resolved: Resolved) -> str:
    """12 hex digits. Equal for configurations that mean the same, whichever defaults they spell out."""
    parts = {
        "plugins": [
            (s.name, s.type, msgspec.to_builtins(s.params, enc_hook=repr, order="sorted"))
            for s in resolved.plugins.values()
        ],
        "left_out": resolved.left_out,
        "profiles": [(p.name, p.filters, p.scorers, p.picker) for p in resolved.profiles],
        "handler": resolved.handler,
        "parsers": resolved.parsers,
        "saturation_detector": resolved.saturation_detector,
        "data_layer": resolved.data_layer,
        "flow_control": resolved.flow_control,
        "feature_gates": resolved.feature_gates,
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:HASH_DIGITS]


def to_yaml(resolved: Resolved) -> str:
    """A configuration file that asks for exactly this, defaults spelled out. Loading it gives the same hash."""
    gates = [f"{name}={str(on).lower()}" for name, on in resolved.feature_gates.items()]
    document: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "featureGates": gates,
        "plugins": [_plugin(s.name, s.type, s.written) for s in resolved.plugins.values()]
        + [_plugin(s.name, s.type, s.written) for s in resolved.left_out],
        "schedulingProfiles": [_profile(p) for p in resolved.profiles],
        "requestHandler": {"parsers": [{"pluginRef": name} for name in resolved.parsers]},
        "dataLayer": _data_layer(resolved.data_layer),
        "flowControl": _flow_control(resolved),
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that our reader would take for something else: PyYAML's idea of a number is narrower."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        plain = isinstance(plain_value(data), str)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def _plugin(name: str, type_name: str, written: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": type_name} if name == type_name else {"name": name, "type": type_name}
    if written:
        entry["parameters"] = written
    return entry


def _profile(profile: ProfileSpec) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for name, weight in profile.members:
        entry: dict[str, Any] = {"pluginRef": name}
        if weight is not None:
            entry["weight"] = int(weight) if weight.is_integer() else weight
        entries.append(entry)
    return {"name": profile.name, "plugins": entries}


def _data_layer(layer: DataLayer) -> dict[str, Any]:
    sources: list[dict[str, Any]] = []
    for spec in layer.sources:
        source: dict[str, Any] = {"pluginRef": spec.source}
        if spec.extractors:
            source["extractors"] = [{"pluginRef": name} for name in spec.extractors]
        sources.append(source)
    section: dict[str, Any] = {"injectDefaults": False, "sources": sources}
    if layer.discovery is not None:
        section["discovery"] = {"pluginRef": layer.discovery}
    return section


def _flow_control(resolved: Resolved) -> dict[str, Any]:
    section: dict[str, Any] = {"saturationDetector": {"pluginRef": resolved.saturation_detector}}
    flow = resolved.flow_control
    if flow is None:
        return section
    section |= {
        "maxBytes": flow.max_bytes,
        "maxRequests": flow.max_requests,
        "priorityBands": [_band(b) for b in flow.bands],
        "enableEviction": flow.enable_eviction,
    }
    for key, band in (
        ("defaultPriorityBand", flow.default_band),
        ("defaultNegativePriorityBand", flow.default_negative_band),
    ):
        if band is not None:
            section[key] = _band(band)
    for key, ttl_s in (
        ("defaultRequestTTL", flow.default_request_ttl_s),
        ("noEndpointRequestTTL", flow.no_endpoint_request_ttl_s),
    ):
        if ttl_s is not None:
            section[key] = format_duration(ttl_s)
    if flow.usage_limit_policy:
        section["usageLimitPolicyPluginRef"] = flow.usage_limit_policy
    return section


def _band(band: Band) -> dict[str, Any]:
    entry: dict[str, Any] = {"priority": band.priority, "maxBytes": band.max_bytes, "maxRequests": band.max_requests}
    if band.fairness_policy:
        entry["fairnessPolicyRef"] = band.fairness_policy
    if band.ordering_policy:
        entry["orderingPolicyRef"] = band.ordering_policy
    return entry
