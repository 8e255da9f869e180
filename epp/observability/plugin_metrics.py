"""Metrics that plugins make for themselves: `Handle.metrics`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from epp.api import ConfigError
from epp.observability.series import (
    Child,
    Family,
    Kind,
    Names,
    View,
    counter_family,
    gauge_family,
    histogram_family,
)

# The default of client_golang (DefBuckets).
DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Metrics that the Go EPP also shows under an older name, with fewer labels.
_PREFIX: Final = "prefix_indexer"
_FORMER: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **{
        f"llm_d_epp_{_PREFIX}_{n}": (f"inference_extension_{_PREFIX}_{n}", ())
        for n in ("size", "hit_ratio", "hit_bytes")
    },
    **{
        f"llm_d_epp_{name}": (f"inference_objective_{name}", ("model_name", "target_model_name", *more))
        for name, *more in (
            ("inference_request_metric", "type"),
            ("request_predicted_ttft_seconds",),
            ("request_predicted_tpot_seconds",),
            ("request_ttft_prediction_duration_seconds",),
            ("request_tpot_prediction_duration_seconds",),
            ("request_slo_violation_total", "type"),
        )
    },
    **{
        f"llm_d_epp_{name}": (f"llm_d_inference_scheduler_{name}", ("model_name", "decision_type"))
        for name in ("disagg_decision_total", "pd_decision_total")
    },
}

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class PluginMetrics:
    """`epp.api.Metrics`. Labels called model_name, target_model_name or fairness_id share the picker's limits on values.

    Raises ConfigError for a name that Prometheus does not allow, and for a name that is taken by another kind of metric,
    other labels or other buckets.
    """

    def __init__(self, families: list[Family[Any]], folds: Mapping[str, Names]) -> None:
        self._families = families
        self._folds = folds
        self._own: dict[str, Family[Any]] = {}

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Child:
        """A counter; the name is shown with `_total` at its end."""
        name = name if name.endswith("_total") else f"{name}_total"
        return self._metric(counter_family(tuple(labels), *_views(name, documentation, labels), folds=self._folds))

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Child:
        return self._metric(gauge_family(tuple(labels), *_views(name, documentation, labels), folds=self._folds))

    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Child:
        """A histogram; without `buckets` the usual ones for seconds, 5 ms to 10 s."""
        bounds = [b for b in buckets or DEFAULT_BUCKETS if b != float("inf")]
        views = _views(name, documentation, labels)
        return self._metric(histogram_family(tuple(labels), *views, bounds=bounds, folds=self._folds))

    def _metric(self, made: Family[Any]) -> Child:
        name = made.views[0].name
        family = self._own.get(name)
        if family is None:
            _check(made, taken=(v.name for f in self._families for v in f.views))
            family = self._own[name] = made
            self._families.append(made)
        elif _shape(family) != _shape(made):
            raise ConfigError(f"metric {name!r} exists as another kind, or with other labels or buckets")
        return family if family.label_names else family.labels()


def _views(name: str, documentation: str, labels: Sequence[str]) -> tuple[View, ...]:
    view = View(name, documentation, tuple(labels))
    former, kept = _FORMER.get(name, ("", ()))
    if not former or not set(kept) <= set(labels):
        return (view,)
    return (view, View(former, documentation, kept))


def _shape(family: Family[Any]) -> tuple[Kind, tuple[str, ...], tuple[float, ...]]:
    return family.kind, family.label_names, family.bounds


def _check(family: Family[Any], *, taken: Iterable[str]) -> None:
    name = family.views[0].name
    names = {view.name for view in family.views}
    if not _NAME.fullmatch(name):
        raise ConfigError(f"metric {name!r}: a name is letters, digits, _ and :, and does not begin with a digit")
    for label in family.label_names:
        if not _LABEL.fullmatch(label) or (label == "le" and family.kind == "histogram"):
            raise ConfigError(f"metric {name!r}: label {label!r} is not allowed; use letters, digits and _")
    if not names.isdisjoint(taken):
        raise ConfigError(f"metric {name!r} is the picker's own")
