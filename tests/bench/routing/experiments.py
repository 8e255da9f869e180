"""What is compared: policies, loads, and what may go wrong around them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tests.bench.routing.picker import ROUND_ROBIN
from tests.bench.routing.simulation import Setting

_CONFIG: Final = Path(__file__).parents[3] / "config"
POLICIES: Final[dict[str, Path | str]] = {
    "round robin": ROUND_ROBIN,
    "default": _CONFIG / "default.yaml",
    "sticky-until-saturated": _CONFIG / "sticky-until-saturated.yaml",
    "recommended": _CONFIG / "recommended.yaml",
}
BASELINE: Final = "sticky-until-saturated"

# The trace sped up. A fleet of eight is busy about half of the time, nine tenths of it, and gets more than it can do.
LIGHT: Final = 2.0
NEAR: Final = 3.8
OVER: Final = 4.6
# The same share of what the fleet can do where one of eight servers does half as much.
NEAR_WITH_ONE_SLOW: Final = NEAR * 7.5 / 8
_ALL: Final = tuple(POLICIES)


class Experiment(msgspec.Struct, frozen=True):
    """One row group of the report."""

    title: str
    speedup: float
    setting: Setting
    policies: tuple[str, ...] = _ALL


EXPERIMENTS: Final[dict[str, Experiment]] = {
    "light": Experiment("light load", LIGHT, Setting()),
    "near": Experiment("near saturation", NEAR, Setting()),
    "over": Experiment("more than the fleet can do", OVER, Setting()),
    "slow": Experiment(
        "near saturation, one server at half speed", NEAR_WITH_ONE_SLOW, Setting(speeds=(0.5,) + (1.0,) * 7), _ALL[1:]
    ),
    "sampled": Experiment(
        "near saturation, bodies of one response in ten", NEAR, Setting(bodies="sampled"), (BASELINE, "recommended")
    ),
    "none": Experiment("near saturation, no response bodies", NEAR, Setting(bodies="none"), (BASELINE, "recommended")),
    "two": Experiment(
        "near saturation, two pickers that do not know of each other", NEAR, Setting(pickers=2), _ALL[1:]
    ),
}
