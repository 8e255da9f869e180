"""What one run of a profile came to: references to what the run made anyway, so that it can be explained later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from epp.api import Candidates, Endpoint, Floats, Plugin


class Named(msgspec.Struct, frozen=True):
    """What a plugin is called. Traces outlive a reload of the configuration: they must not hold the plugins themselves."""

    name: str
    type: str


class Rule(msgspec.Struct, frozen=True):
    """What a filter goes by: its type, and the parameters that are not the default ones, by their configured names."""

    name: str
    type: str
    parameters: Mapping[str, Any]


def rule_of(plugin: Plugin) -> Rule:
    params = plugin.params
    changed: dict[str, Any] = {}
    if isinstance(params, msgspec.Struct):
        for field in msgspec.structs.fields(params):
            value = getattr(params, field.name)
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            if value != default:
                changed[field.encode_name] = msgspec.to_builtins(value, enc_hook=str)
    return Rule(plugin.name, plugin.type, changed)


class Outline(msgspec.Struct, frozen=True):
    """What a profile consists of: its filters, its scorers with their weights, all in order, and its picker."""

    name: str
    filters: tuple[Rule, ...]
    scorers: tuple[tuple[Named, float], ...]
    picker: Named


# gc=False: ten thousand of them are kept, and none refers back to its keeper.
class ProfileRun(msgspec.Struct, frozen=True, gc=False):
    """`left` is what the filters left of `given`; `steps` are the filters that removed somebody, each with what it left.

    `scores` has a vector per scorer in the profile's order (aligned with `left`, clipped to [0, 1], before the weight), None
    where the scorer failed. A profile that found nothing has no scores, no totals and picked nobody.
    """

    profile: Outline
    given: Candidates
    left: Candidates
    steps: tuple[tuple[str, Candidates], ...]
    scores: tuple[Floats | None, ...] = ()
    totals: Floats | None = None
    picked: tuple[Endpoint, ...] = ()


Trace: TypeAlias = list[ProfileRun]
"""The runs of one decision, in order."""
