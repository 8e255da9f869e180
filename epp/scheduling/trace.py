"""What one run of a profile came to: references to what the run made anyway, so that it can be explained later."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from epp.api import Candidates, Endpoint, Floats


class Named(msgspec.Struct, frozen=True):
    """What a plugin is called. Traces outlive a reload of the configuration: they must not hold the plugins themselves."""

    name: str
    type: str


class Outline(msgspec.Struct, frozen=True):
    """What a profile consists of: its scorers with their weights in order, and its picker."""

    name: str
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
