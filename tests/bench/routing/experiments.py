"""What is compared: policies, loads, and what may go wrong around them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tests.bench.routing.picker import ROUND_ROBIN, with_predictor, with_rate
from tests.bench.routing.simulation import Setting

_CONFIG: Final = Path(__file__).parents[3] / "config"
BASELINE: Final = "sticky-until-saturated"
POLICIES: Final[dict[str, Path | str]] = {
    "round robin": ROUND_ROBIN,
    "default": _CONFIG / "default.yaml",
    BASELINE: _CONFIG / "sticky-until-saturated.yaml",
    "recommended": _CONFIG / "recommended.yaml",
    "recommended, rate given": with_rate(_CONFIG / "recommended.yaml", 400),
    "with prediction": with_predictor(_CONFIG / "recommended.yaml"),
    "prediction, SLO admission": with_predictor(_CONFIG / "recommended.yaml", admits=True),
    "latency-slo": _CONFIG / "latency-slo.yaml",
}

# The trace sped up. A fleet of eight is busy about half of the time, nine tenths of it, and gets more than it can do.
LIGHT: Final = 2.0
NEAR: Final = 3.8
OVER: Final = 4.6
# One of eight servers at half speed: the same share of what the fleet can do is less.
_SLOWED: Final = 7.5 / 8
_ONE_SLOW: Final = Setting(speeds=(0.5,) + (1.0,) * 7)
# A server of the comparison reads 20,000 tokens a second at best; these read 400, where recommended.yaml begins with 8,000.
_SLOWER: Final = 0.02
_ALL: Final = ("round robin", "default", BASELINE, "recommended")
_PREDICTED: Final = ("recommended", "with prediction")
_PROMISED: Final = (*_PREDICTED, "prediction, SLO admission", "latency-slo")
SLO_TTFT_MS: Final = 1500.0


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
    "slow": Experiment("near saturation, one server at half speed", NEAR * _SLOWED, _ONE_SLOW, _ALL[1:]),
    **{
        f"slow-{load:g}": Experiment(f"load {load:g}, one server at half speed", load * _SLOWED, _ONE_SLOW, _ALL[1:])
        for load in (2.0, 3.0, 4.4)
    },
    "sampled": Experiment(
        "near saturation, bodies of one response in ten", NEAR, Setting(bodies="sampled"), (BASELINE, "recommended")
    ),
    "none": Experiment("near saturation, no response bodies", NEAR, Setting(bodies="none"), (BASELINE, "recommended")),
    "slower": Experiment(
        "near saturation, all servers twenty times slower than is guessed",
        NEAR * _SLOWER,
        Setting(speeds=(_SLOWER,) * 8),
        (*_ALL[1:], "recommended, rate given"),
    ),
    "two": Experiment(
        "near saturation, two pickers that do not know of each other", NEAR, Setting(pickers=2), _ALL[1:]
    ),
}

# With latency prediction, which is learnt anew in each run: the training makes them slower.
PREDICTION: Final[dict[str, Experiment]] = {
    "predicted": Experiment("prediction near saturation", NEAR, Setting(judged=True), _PREDICTED),
    "slo-light": Experiment("light load", LIGHT, Setting(slo_ttft_ms=SLO_TTFT_MS), _PROMISED),
    "slo-near": Experiment("near saturation", NEAR, Setting(slo_ttft_ms=SLO_TTFT_MS), _PROMISED),
    "slo-over": Experiment("more than the fleet can do", OVER, Setting(slo_ttft_ms=SLO_TTFT_MS), _PROMISED),
    "stale": Experiment("metrics read once a second", NEAR, Setting(scrape_s=1.0, judged=True), _PREDICTED),
    "predicted-two": Experiment(
        "two pickers that do not know of each other", NEAR, Setting(pickers=2, judged=True), _PREDICTED
    ),
    "predicted-slow": Experiment(
        "one server at half speed", NEAR * _SLOWED, msgspec.structs.replace(_ONE_SLOW, judged=True), _PREDICTED
    ),
    "untrained": Experiment("nothing is ever learnt", NEAR, Setting(training="off", judged=True), _PREDICTED),
    "poisoned": Experiment(
        "from the middle on every sample is wrong, by 0.1 to 10 times",
        NEAR,
        Setting(training="poisoned", judged=True),
        _PREDICTED,
    ),
}
