"""Results as tables: means over the seeds, and how a policy differs from the baseline on the same requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Final

import msgspec

# Two-sided 95 % quantile of Student's t by degrees of freedom.
_T95: Final = (0.0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Result(msgspec.Struct, frozen=True):
    """The numbers of one run (see `Outcome.numbers`)."""

    experiment: str
    policy: str
    seed: int
    numbers: dict[str, float]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (0 for a single value)."""
    if len(values) < 2:
        return mean(values), 0.0
    return mean(values), _T95[min(len(values), len(_T95)) - 1] * stdev(values) / sqrt(len(values))


def against(results: Iterable[Result], name: str, *, baseline: str) -> dict[str, tuple[float, float]]:
    """By policy: number `name` as a share of the baseline's on the same seed, less 1."""
    by_policy: dict[str, dict[int, float]] = {}
    for result in results:
        by_policy.setdefault(result.policy, {})[result.seed] = result.numbers[name]
    base = by_policy[baseline]
    return {
        policy: interval([value / base[seed] - 1.0 for seed, value in of_one.items() if seed in base])
        for policy, of_one in by_policy.items()
    }


def table(title: str, results: Sequence[Result], *, baseline: str) -> str:
    """A Markdown table of one experiment."""
    ttft = against(results, "ttft_p90", baseline=baseline)
    e2e = against(results, "e2e_p90", baseline=baseline)
    lines = [
        f"**{title}**",
        "",
        "| | TTFT p50 ms | TTFT p90 ms | beside sticky | end to end p90 ms | beside sticky | ms a token | cached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy in dict.fromkeys(result.policy for result in results):
        numbers = [result.numbers for result in results if result.policy == policy]
        means = {name: mean(one[name] for one in numbers) for name in numbers[0]}
        lines.append(
            f"| {policy} | {means['ttft_p50']:.0f} | {means['ttft_p90']:.0f} | {_percent(ttft[policy], policy == baseline)} | "
            f"{means['e2e_p90']:.0f} | {_percent(e2e[policy], policy == baseline)} | {means['tpot']:.1f} | "
            f"{means['cached']:.3f} |"
        )
    return "\n".join(lines)


_PROMISES: Final = {
    "ttft_p90": ("TTFT p90 ms", 0),
    "e2e_p90": ("end to end p90 ms", 0),
    "slo_met": ("in time, of those served", 3),
    "goodput": ("in time, of all", 3),
    "refused": ("refused", 3),
    "coverage_ttft": ("TTFT within its 90 % interval", 3),
    "error_ttft": ("median error", 3),
    "regret_predicted": ("regret of the prediction ms", 1),
    "regret_fluid": ("of the fluid backlog", 1),
    "regret_tokens": ("of tokens in flight", 1),
}


def promises(title: str, results: Sequence[Result]) -> str:
    """A Markdown table of one experiment with prediction: means and 95 % intervals of what there is."""
    names = [name for name in _PROMISES if any(name in result.numbers for result in results)]
    lines = [
        f"**{title}**",
        "",
        "| | " + " | ".join(_PROMISES[name][0] for name in names) + " |",
        "|---" * len(names) + "|---|",
    ]
    for policy in dict.fromkeys(result.policy for result in results):
        numbers = [result.numbers for result in results if result.policy == policy]
        cells = [_cell([one[name] for one in numbers if name in one], _PROMISES[name][1]) for name in names]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    middle, half = interval(values)
    return f"{middle:.{digits}f} ± {half:.{digits}f}" if len(values) > 1 else f"{middle:.{digits}f}"


def _percent(value: tuple[float, float], is_baseline: bool) -> str:
    middle, half = value
    return "" if is_baseline else f"{100 * middle:+.1f} ± {100 * half:.1f} %"
