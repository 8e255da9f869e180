"""The metrics page of the training service, under the names of llm-d's."""

from __future__ import annotations

from collections.abc import Mapping

from epp_predictor.prior import TARGETS
from epp_predictor.servers.serving import ServedTarget
from epp_predictor.servers.store import PREFIX_RANGES, Store
from epp_predictor.servers.variables import Objectives

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(store: Store, models: Mapping[str, ServedTarget], objectives: Objectives, now_s: float) -> str:
    lines = _Lines()
    kind = next(iter(models.values())).kind
    lines.add("model_type", 1, type=kind)
    lines.add("objective_type", 1, type=objectives.objective)
    lines.add("model_quantile", objectives.quantile)
    lines.add("ensemble_active", 0)
    lines.add("ensemble_mode", 0)
    for target, model in models.items():
        lines.add("model_age_seconds", max(now_s - model.fitted_at_s, 0.0), model=target)
        lines.add("model_version", model.version, model=target)
        lines.add("model_samples", model.samples, model=target)
    _explain(lines, models)
    _samples(lines, store)
    for target in TARGETS:
        for number, scores in enumerate(store.scores[target]):
            for name, value in scores.items():
                lines.add(f"{target}_{name}", value, idx=str(number))
    lines.add("target_coverage_percent", objectives.quantile * 100)
    lines.add("target_violation_rate_percent", (1 - objectives.quantile) * 100)
    return lines.text()


def _explain(lines: _Lines, models: Mapping[str, ServedTarget]) -> None:
    for target, model in models.items():
        values = model.importance()
        if model.kind == "bayesian_ridge":
            lines.add(f"{target}_intercept", values.pop("intercept"))
            name = f"{target}_coef"
        else:
            name = f"{target}_importance"
        for feature, value in values.items():
            lines.add(name, value, feature=feature)


def _samples(lines: _Lines, store: Store) -> None:
    totals: dict[tuple[str, str, int], int] = {}
    for target in TARGETS:
        for buckets, count in store.buckets(target).items():
            named = dict(zip(("queue_bucket", "cache_bucket", "prefix_bucket"), map(str, buckets), strict=True))
            lines.add("training_samples_count", count, model=target, **named)
            for part, bucket in zip(("queue", "cache", "prefix"), buckets, strict=True):
                totals[target, part, bucket] = totals.get((target, part, bucket), 0) + count
    for (target, part, bucket), count in sorted(totals.items()):
        extra = {"range": PREFIX_RANGES[bucket]} if part == "prefix" else {}
        lines.add(f"training_samples_{part}_total", count, model=target, **{f"{part}_bucket": str(bucket)}, **extra)
    overall = store.prefix_overall()
    for name in ("mean", "std", "min", "max"):
        lines.add(f"prefix_score_{name}", overall.get(name, 0.0))
    for number, described in enumerate(store.by_prefix()):
        for name in ("mean", "median"):
            value = described.get(f"{name}_ttft", 0.0)
            shown = "avg" if name == "mean" else name
            lines.add(f"{shown}_ttft_by_prefix", value, prefix_bucket=str(number), range=PREFIX_RANGES[number])


class _Lines:
    """Samples, those of one name together, as the format wants."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[str]] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        listed = ",".join(f'{key}="{text}"' for key, text in labels.items())
        shown = f"{{{listed}}}" if listed else ""
        self._by_name.setdefault(name, []).append(f"{name}{shown} {value:.10g}")

    def text(self) -> str:
        return "".join(
            f"# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in lines) for name, lines in self._by_name.items()
        )
