"""Reads the tree of a configuration file into a ConfigFile. Checks everything that needs no knowledge of plugin types."""

from __future__ import annotations

from typing import Final

from epp.config.document import Fields, Node, Scalar, kind_of
from epp.config.durations import parse_duration
from epp.config.flow_control import read_flow_control, read_reference
from epp.config.model import (
    API_VERSION,
    DEPRECATED_API_VERSION,
    FEATURE_GATES,
    KIND,
    ConfigFile,
    DataLayerEntry,
    PluginEntry,
    ProfileEntry,
    ProfilePlugin,
    Reference,
    SourceEntry,
)
from epp.config.problems import Place, Problems, did_you_mean
from epp.config.section import Section

# Gates of earlier Go EPPs: what they asked for is always so, or is not there any more.
_RETIRED_GATES: Final[dict[str, str]] = {
    "dataLayer": "the data layer is always on",
    "enableLegacyMetrics": "the metrics reader that it selects does not exist here",
    "prepareDataPlugins": "data producers always run",
}

# What the Go EPP takes for a gate's value (strconv.ParseBool, of small letters).
_GATE_VALUES: Final[dict[str, bool]] = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def read_config(root: Node, problems: Problems) -> ConfigFile:
    """The configuration as far as it can be read; what cannot be read is reported and left out."""
    top = Section(root, Place("", root.line, root.column), problems)
    _check_version(top)
    gates = _feature_gates(top)
    plugins = tuple(_plugin(s) for s in top.sections("plugins"))
    profiles = _profiles(top)
    detector = read_reference(top, "saturationDetector")
    if detector is not None:
        problems.warning(detector.place, "is deprecated: use flowControl.saturationDetector.pluginRef")
    data_layer = top.section("dataLayer")
    flow_control = top.section("flowControl")
    config = ConfigFile(
        file=problems.file,
        plugins=plugins,
        profiles=profiles,
        feature_gates=gates,
        gates_place=top.place("featureGates"),
        parsers=_parsers(top),
        saturation_detector=detector,
        data_layer=_data_layer(data_layer) if data_layer else DataLayerEntry(),
        flow_control=read_flow_control(flow_control) if flow_control else None,
    )
    top.done()
    return config


def _check_version(top: Section) -> None:
    version = top.text("apiVersion", required=True)
    if version == DEPRECATED_API_VERSION:
        top.problems.warning(top.place("apiVersion"), f'"{version}" is deprecated: use "{API_VERSION}"')
    elif version is not None and version != API_VERSION:
        hint = did_you_mean(version, (API_VERSION, DEPRECATED_API_VERSION))
        top.problems.error(top.place("apiVersion"), f'expected "{API_VERSION}", got "{version}"{hint}')
    kind = top.text("kind", required=True)
    if kind is not None and kind != KIND:
        top.problems.error(top.place("kind"), f'expected "{KIND}", got "{kind}"')


def _feature_gates(top: Section) -> dict[str, bool]:
    gates: dict[str, bool] = {}
    for node, place in top.items("featureGates"):
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            top.problems.error(place, f"expected name, name=true or name=false, got {kind_of(node)}")
            continue
        name, equals, value = (part.strip() for part in node.value.partition("="))
        if name in _RETIRED_GATES:
            top.problems.warning(place, f'feature gate "{name}" has no effect: {_RETIRED_GATES[name]}')
        elif name not in FEATURE_GATES:
            top.problems.error(place, f'no feature gate is named "{name}"{did_you_mean(name, FEATURE_GATES)}')
        elif equals and value.lower() not in _GATE_VALUES:
            top.problems.error(place, f'feature gate "{name}": expected true or false, got "{value}"')
        else:
            if name in gates:
                top.problems.warning(place, f'feature gate "{name}" is there twice: this one counts')
            gates[name] = not equals or _GATE_VALUES[value.lower()]
    return gates


def _plugin(section: Section) -> PluginEntry:
    type_name = section.text("type", required=True)
    name = section.text("name")
    parameters = section.node("parameters")
    if parameters is not None and not isinstance(parameters, Fields):
        section.problems.error(section.place("parameters"), f"expected a mapping, got {kind_of(parameters)}")
        parameters = None
    section.done()
    return PluginEntry(
        type=type_name or "",
        name=name or "",
        parameters=parameters,
        place=section.at,
        type_place=section.place("type"),
        name_place=section.place("name"),
        parameters_place=section.place("parameters"),
    )


def _profiles(top: Section) -> tuple[ProfileEntry, ...]:
    profiles: list[ProfileEntry] = []
    names: set[str] = set()
    for section in top.sections("schedulingProfiles"):
        name = section.text("name", required=True) or ""
        if name and name in names:
            section.problems.error(section.place("name"), f'another profile is named "{name}"')
        names.add(name)
        plugins = [_profile_plugin(s) for s in section.sections("plugins")]
        section.done()
        profiles.append(ProfileEntry(name, tuple(p for p in plugins if p is not None), section.at))
    return tuple(profiles)


def _profile_plugin(section: Section) -> ProfilePlugin | None:
    name = section.text("pluginRef", required=True)
    weight = section.number("weight")
    if weight is not None and weight < 0:
        section.problems.error(section.place("weight"), f"expected a number of at least 0, got {weight:g}")
        weight = None
    section.done()
    if name is None:
        return None
    return ProfilePlugin(Reference(name, section.place("pluginRef")), weight, section.place("weight"))


def _parsers(top: Section) -> tuple[Reference, ...]:
    deprecated = read_reference(top, "parser")
    handler = top.section("requestHandler")
    parsers = _references(handler, "parsers") if handler else ()
    if handler:
        handler.done()
    if deprecated is None:
        return parsers
    if parsers:
        top.problems.warning(deprecated.place, "is deprecated and ignored: requestHandler.parsers is there, too")
        return parsers
    top.problems.warning(deprecated.place, "is deprecated: use requestHandler.parsers")
    return (deprecated,)


def _references(section: Section, key: str) -> tuple[Reference, ...]:
    """A list of `{pluginRef: name}`."""
    references: dict[str, Reference] = {}
    for inner in section.sections(key):
        name = inner.text("pluginRef", required=True)
        inner.done()
        if name is None:
            continue
        if name in references:
            inner.problems.error(inner.place("pluginRef"), f'"{name}" is there twice')
            continue
        references[name] = Reference(name, inner.place("pluginRef"))
    return tuple(references.values())


def _data_layer(section: Section) -> DataLayerEntry:
    inject = section.flag("injectDefaults")
    sources: dict[str, SourceEntry] = {}
    for inner in section.sections("sources"):
        name = inner.text("pluginRef", required=True)
        extractors = _references(inner, "extractors")
        inner.done()
        if name is None:
            continue
        if name in sources:
            inner.problems.error(inner.place("pluginRef"), f'"{name}" is there twice')
            continue
        sources[name] = SourceEntry(Reference(name, inner.place("pluginRef")), extractors)
    entry = DataLayerEntry(
        inject_defaults=inject is not False,
        sources=tuple(sources.values()),
        discovery=read_reference(section, "discovery"),
        peer_discovery=read_reference(section, "peerDiscovery"),
    )
    section.text("crossReplicaSyncerPluginRef")
    section.parsed("crossReplicaSyncInterval", parse_duration)
    # The Go EPP reads these and does nothing with them either, without a word.
    for key in ("peerDiscovery", "crossReplicaSyncerPluginRef", "crossReplicaSyncInterval"):
        if key in section.fields():
            section.problems.warning(
                section.place(key), "has no effect: replicas do not exchange state in this version"
            )
    section.done()
    return entry
