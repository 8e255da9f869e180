"""What a configuration chooses beside profiles: parsers, saturation detector, data layer, flow control's policies."""

from __future__ import annotations

from typing import Final

from epp.api import Parser, SaturationDetector
from epp.config.draft import Draft
from epp.config.flow_control import DEFAULT_POLICIES, POLICY_TYPES
from epp.config.model import FlowControl, Reference, SourceEntry
from epp.config.problems import Place, did_you_mean
from epp.config.resolved import DataLayer, SourceSpec
from epp.config.roles import DISCOVERIES, METRICS_EXTRACTOR, METRICS_SOURCE, can_extract, is_data_source, words_for

# The last one takes every path that no other claims, so it has to be the last.
DEFAULT_PARSERS: Final = ("openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser")
DEFAULT_DETECTOR: Final = "utilization-detector"
IN_FLIGHT_PRODUCER: Final = "inflight-load-producer"


def resolve_parsers(draft: Draft) -> tuple[str, ...]:
    """Names of the parsers in the order in which they are asked."""
    names: list[str] = []
    if draft.config.parsers:
        for reference in draft.config.parsers:
            cls = draft.registry.builtin(reference.name)
            if cls is not None and issubclass(cls, Parser):
                draft.add_named(reference)
            spec = draft.look_up(reference, kind=Parser, word="a parser")
            if spec is not None:
                names.append(spec.name)
    else:
        for type_name in DEFAULT_PARSERS:
            spec = draft.add_default(type_name) if type_name in draft.registry else None
            if spec is not None:
                names.append(spec.name)
        if not names:
            draft.problems.error(Place("requestHandler.parsers"), "there is no parser, and none of the default ones")
    for spec in draft.of_kind(Parser):
        if spec.name not in names:
            draft.problems.warning(spec.place, f'requestHandler.parsers does not list "{spec.name}": it does nothing')
    return tuple(names)


def resolve_detector(draft: Draft) -> str:
    """The name of the saturation detector."""
    chosen = chosen_detector(draft)
    if chosen is None:
        default = draft.add_default(DEFAULT_DETECTOR)
        return default.name if default else ""
    if chosen.name == DEFAULT_DETECTOR:
        draft.add_named(chosen)
    spec = draft.look_up(chosen, kind=SaturationDetector, word="a saturation detector")
    return spec.name if spec else ""


def chosen_detector(draft: Draft) -> Reference | None:
    """The saturation detector that flow control's section names, else the one of the deprecated field, else None."""
    flow = draft.config.flow_control
    chosen = flow.saturation_detector if flow is not None else None
    return chosen or draft.config.saturation_detector


def resolve_data_layer(draft: Draft) -> DataLayer:
    """Sources with their extractors; the metrics source and its extractor are added unless one is listed or refused.

    The Go EPP looks for the name `metrics-data-source` and so doubles a source that has another name; here the type counts.
    """
    entry = draft.config.data_layer
    sources = [_source(draft, s) for s in entry.sources]
    specs = [draft.specs[s.source] for s in sources if s.source in draft.specs]
    if entry.inject_defaults and not any(s.type == METRICS_SOURCE for s in specs):
        source, extractor = draft.add_default(METRICS_SOURCE), draft.add_default(METRICS_EXTRACTOR)
        if source is not None and extractor is not None:
            sources.insert(0, SourceSpec(source.name, (extractor.name,)))
    discovery = entry.discovery
    if discovery is not None:
        _look_up_discovery(draft, discovery)
    if not sources and not draft.broken:
        message = "there is no data source: scorers see no metrics of model servers"
        draft.problems.warning(Place("dataLayer.sources"), message)
    return DataLayer(tuple(sources), discovery.name if discovery else None)


def resolve_flow_control(draft: Draft) -> FlowControl | None:
    """Checks what the section refers to, and says that it is not applied."""
    gate = draft.config.feature_gates.get("flowControl", False)
    entry = draft.config.flow_control
    if gate:
        message = "flow control is not part of this version: requests are admitted as without the gate"
        draft.problems.warning(draft.config.gates_place, message)
    if entry is None:
        return None
    for reference, kind in entry.policies:
        _check_policy(draft, reference, kind, gate=gate)
    if entry.settings == FlowControl():
        return None
    why = "flow control is not part of this version" if gate else "the feature gate flowControl is off"
    draft.problems.warning(entry.place, f"is checked and, but for saturationDetector, not applied: {why}")
    return entry.settings


def add_in_flight_accounting(draft: Draft) -> None:
    """The counts of requests and tokens in flight are kept for every configuration: ties between equal scores, decisions
    while no metrics are scraped, and the debug pages use them, whether or not a scorer asks for them."""
    draft.add_default(IN_FLIGHT_PRODUCER)


def _source(draft: Draft, entry: SourceEntry) -> SourceSpec:
    source = draft.look_up(entry.source)
    if source is not None and not is_data_source(source.cls, source.type):
        what = words_for(source.cls, source.type)
        draft.problems.error(entry.source.place, f'expected a data source: "{source.name}" is {what}')
        source = None
    for reference in entry.extractors:
        spec = draft.look_up(reference)
        if (
            source is None
            or spec is None
            or can_extract(spec.cls, spec.type, source=source.cls, source_type=source.type)
        ):
            continue
        what = words_for(spec.cls, spec.type)
        expected = "an extractor" if "extractor" not in what else f'an extractor for what "{source.name}" fetches'
        draft.problems.error(reference.place, f'expected {expected}: "{spec.name}" is {what}')
    names = tuple(r.name for r in entry.extractors)
    if source is None or names:
        return SourceSpec(entry.source.name, names)
    default = None
    if source.type == METRICS_SOURCE:
        default = draft.of_type(METRICS_EXTRACTOR) or draft.add_default(METRICS_EXTRACTOR)
    if default is None:
        draft.problems.warning(entry.source.place, f'"{source.name}" has no extractor: what it fetches is not read')
        return SourceSpec(source.name, ())
    draft.problems.warning(
        entry.source.place, f'"{source.name}" has no extractor: "{default.name}" reads what it fetches'
    )
    return SourceSpec(source.name, (default.name,))


def _look_up_discovery(draft: Draft, reference: Reference) -> None:
    spec = draft.look_up(reference)
    if spec is not None and spec.type not in DISCOVERIES:
        what = words_for(spec.cls, spec.type)
        draft.problems.error(reference.place, f'expected a discovery: "{spec.name}" is {what}')


def _check_policy(draft: Draft, reference: Reference, kind: str, *, gate: bool) -> None:
    """Reports a policy that is not there or of another kind. Without its gate nothing of flow control has an effect, and what
    is wrong is no reason to refuse the configuration."""
    name = reference.name
    declared = draft.left_out.get(name)
    if name in draft.broken:
        return
    type_name = declared.type if declared is not None else name if name in DEFAULT_POLICIES else ""
    found = POLICY_TYPES.get(type_name)
    if found == kind:
        return
    report = draft.problems.error if gate else draft.problems.warning
    article = "an" if kind[0] in "aeio" else "a"
    if found is not None:
        report(reference.place, f'expected {article} {kind}: "{name}" is of another kind, {found}')
    elif name in draft.specs:
        spec = draft.specs[name]
        report(reference.place, f'expected {article} {kind}: "{name}" is {words_for(spec.cls, spec.type)}')
    elif POLICY_TYPES.get(name) == kind:
        report(reference.place, f'no {kind} is named "{name}"; add it to plugins, as {{type: {name}}}')
    else:
        options = [*draft.left_out, *(t for t, k in POLICY_TYPES.items() if k == kind)]
        report(reference.place, f'no {kind} is named "{name}"{did_you_mean(name, options)}')
