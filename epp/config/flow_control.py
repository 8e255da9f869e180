"""Reads the section `flowControl`, and knows the types of the policies that it may refer to."""

from __future__ import annotations

from typing import Final

from epp.config.durations import parse_duration
from epp.config.model import Band, FlowControl, FlowControlEntry, Reference
from epp.config.quantities import parse_quantity
from epp.config.section import Section

# Types of the Go EPP that belong to its flow control, and the kind of policy each one is.
POLICY_TYPES: Final[dict[str, str]] = {
    "global-strict-fairness-policy": "fairness policy",
    "round-robin-fairness-policy": "fairness policy",
    "program-aware-fairness": "fairness policy",
    "fcfs-ordering-policy": "ordering policy",
    "edf-ordering-policy": "ordering policy",
    "slo-deadline-ordering-policy": "ordering policy",
    "static-usage-limit-policy": "usage-limit policy",
    "priority-holdback-policy": "usage-limit policy",
    "soft-reflective-ceiling-policy": "usage-limit policy",
    "sheddable-eviction-filter": "eviction policy",
    "priority-then-time-eviction-order-policy": "eviction policy",
}

# Those that the Go EPP has without their being declared.
DEFAULT_POLICIES: Final = frozenset(
    ("fcfs-ordering-policy", "global-strict-fairness-policy", "static-usage-limit-policy")
)


def read_flow_control(section: Section) -> FlowControlEntry:
    """All of the section; problems are collected in it."""
    policies: list[tuple[Reference, str]] = []
    detector = read_reference(section, "saturationDetector")
    default_band = section.section("defaultPriorityBand")
    negative_band = section.section("defaultNegativePriorityBand")
    settings = FlowControl(
        max_bytes=section.parsed("maxBytes", parse_quantity) or 0,
        max_requests=section.parsed("maxRequests", parse_quantity) or 0,
        default_request_ttl_s=section.parsed("defaultRequestTTL", parse_duration),
        no_endpoint_request_ttl_s=section.parsed("noEndpointRequestTTL", parse_duration),
        default_band=_band(default_band, policies) if default_band else None,
        default_negative_band=_band(negative_band, policies) if negative_band else None,
        bands=_bands(section, policies),
        usage_limit_policy=_policy(section, "usageLimitPolicyPluginRef", "usage-limit policy", policies),
        enable_eviction=bool(section.flag("enableEviction")),
    )
    section.done()
    return FlowControlEntry(settings, detector, tuple(policies), section.at)


def read_reference(section: Section, key: str) -> Reference | None:
    """A field of the form `{pluginRef: name}`."""
    inner = section.section(key)
    if inner is None:
        return None
    name = inner.text("pluginRef", required=True)
    inner.done()
    return None if name is None else Reference(name, inner.place("pluginRef"))


def _bands(section: Section, policies: list[tuple[Reference, str]]) -> tuple[Band, ...]:
    bands: list[Band] = []
    for inner in section.sections("priorityBands"):
        band = _band(inner, policies)
        if any(b.priority == band.priority for b in bands):
            inner.problems.error(inner.place("priority"), f"priority {band.priority} has a band already")
        bands.append(band)
    return tuple(bands)


def _band(section: Section, policies: list[tuple[Reference, str]]) -> Band:
    band = Band(
        priority=section.integer("priority") or 0,
        max_bytes=section.parsed("maxBytes", parse_quantity) or 0,
        max_requests=section.parsed("maxRequests", parse_quantity) or 0,
        fairness_policy=_policy(section, "fairnessPolicyRef", "fairness policy", policies),
        ordering_policy=_policy(section, "orderingPolicyRef", "ordering policy", policies),
    )
    section.done()
    return band


def _policy(section: Section, key: str, kind: str, policies: list[tuple[Reference, str]]) -> str:
    name = section.text(key)
    if not name:
        return ""
    policies.append((Reference(name, section.place(key)), kind))
    return name
