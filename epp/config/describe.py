"""A configuration in words: what runs, in which order, with which weights, and what of it was added by default."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from epp.api import (
    Admitter,
    Decider,
    Parser,
    Plugin,
    PreRequest,
    RequestHeaderProcessor,
    ResponseComplete,
    ResponseEnding,
    ResponseReceived,
    ResponseStreaming,
    Screener,
)
from epp.config.build import resolved_of
from epp.config.pipeline import Pipeline
from epp.config.resolved import PluginSpec, ProfileSpec, Resolved, config_hash


class BodyNeeds(msgspec.Struct, frozen=True):
    """Names of the plugins that read bodies.

    `request`: nothing can be known of a request without its body. `response` look at the pieces of a response, and `usage`
    find token counts in it, where the proxy sends it; it may leave it out.
    """

    request: tuple[str, ...]
    response: tuple[str, ...]
    usage: tuple[str, ...]


def body_needs(of: Pipeline | Resolved) -> BodyNeeds:
    resolved = _resolved(of)
    parsers = [resolved.plugins[name] for name in resolved.parsers]
    return BodyNeeds(
        request=tuple(s.name for s in parsers if getattr(s.cls, "reads_body", True)),
        response=tuple(dict.fromkeys(_names(resolved, ResponseStreaming) + _names(resolved, ResponseEnding))),
        usage=tuple(s.name for s in parsers if getattr(s.cls, "usage_reader", None) is not Parser.usage_reader),
    )


def describe(of: Pipeline | Resolved) -> str:
    """Several lines of text, for people. Plugins that nobody asked for carry the mark `(default)`."""
    resolved = _resolved(of)
    gates = ", ".join(name for name, on in resolved.feature_gates.items() if on) or "none"
    lines = [f"configuration {resolved.file}, hash {config_hash(resolved)}", f"feature gates on: {gates}", ""]
    lines += _section("parsers, the longest matching path first", [_label(resolved, n) for n in resolved.parsers])
    lines += _hooks(resolved, {"request header processors": RequestHeaderProcessor, "screeners": Screener})
    lines += _section("saturation detector", [_label(resolved, resolved.saturation_detector)])
    lines += _section("data producers, in order", [_producer(resolved, n) for n in resolved.producers])
    lines += _section("admitters", [_label(resolved, n) for n in _names(resolved, Admitter)])
    lines += _section("profile handler", [_label(resolved, resolved.handler)])
    lines += _hooks(resolved, {"deciders": Decider})
    for profile in resolved.profiles:
        lines += _profile(resolved, profile)
    lines += _hooks(
        resolved,
        {
            "before the request is sent on": PreRequest,
            "at response headers": ResponseReceived,
            "at each piece of a response": ResponseStreaming,
            "at the end of a response's body": ResponseEnding,
            "at the end of a request": ResponseComplete,
        },
    )
    lines += _section("data layer", _data_layer(resolved))
    lines += _section("bodies that the proxy must send", _bodies(resolved))
    lines += _section("accepted, and left out", [f"{p.name} ({p.type})" for p in resolved.left_out])
    lines += _section("warnings", [str(w) for w in resolved.warnings])
    return "\n".join(lines).rstrip("\n") + "\n"


def _resolved(of: Pipeline | Resolved) -> Resolved:
    return resolved_of(of) if isinstance(of, Pipeline) else of


def _names(resolved: Resolved, point: type[Plugin]) -> tuple[str, ...]:
    return tuple(s.name for s in resolved.plugins.values() if issubclass(s.cls, point))


def _hooks(resolved: Resolved, points: dict[str, type[Plugin]]) -> list[str]:
    """A section for each extension point that some plugin fills."""
    lines: list[str] = []
    for title, point in points.items():
        lines += _section(title, [_label(resolved, name) for name in _names(resolved, point)])
    return lines


def _section(title: str, entries: Iterable[str]) -> list[str]:
    indented = [f"  {entry}" for entry in entries]
    return [title, *indented, ""] if indented else []


def _label(resolved: Resolved, name: str) -> str:
    spec: PluginSpec = resolved.plugins[name]
    of_type = f" ({spec.type})" if spec.type != name else ""
    written = f" {msgspec.json.encode(spec.written).decode()}" if spec.written else ""
    return f"{name}{of_type}{written}{' (default)' if spec.default else ''}"


def _producer(resolved: Resolved, name: str) -> str:
    text = _label(resolved, name)
    if name in resolved.produces:
        text += f": publishes {', '.join(resolved.produces[name])}"
    if name in resolved.consumes:
        text += f", reads {', '.join(resolved.consumes[name])}"
    return text


def _profile(resolved: Resolved, profile: ProfileSpec) -> list[str]:
    entries = [f"filter  {_label(resolved, name)}" for name in profile.filters]
    entries += [f"score   {_label(resolved, name)} × {weight:g}" for name, weight in profile.scorers]
    entries.append(f"pick    {_label(resolved, profile.picker)}")
    return _section(f"profile {profile.name}{' (default)' if profile.default else ''}", entries)


def _data_layer(resolved: Resolved) -> list[str]:
    layer = resolved.data_layer
    entries = [
        f"{_label(resolved, s.source)} → {', '.join(_label(resolved, n) for n in s.extractors) or 'nobody'}"
        for s in layer.sources
    ]
    if layer.discovery is not None:
        entries.append(f"endpoints come from {_label(resolved, layer.discovery)}")
    return entries


def _bodies(resolved: Resolved) -> list[str]:
    needs = body_needs(resolved)
    request = (
        f"needed by {', '.join(needs.request)}" if needs.request else "not needed (request_body_mode: NONE will do)"
    )
    uses = [*needs.response]
    if needs.usage:
        uses.append(f"token counts ({', '.join(needs.usage)})")
    response = f"used, where it is sent, by {', '.join(uses)}" if uses else "not used"
    return [
        f"request   {request}",
        f"response  {response}",
        "          (response_body_mode: NONE with response_trailer_mode: SEND costs nothing per piece)",
    ]
