from __future__ import annotations

from math import inf, nan

import pytest

from epp.api import Fleet, Scorer
from epp_plugins.scorers.multicluster_kv_cache_utilization_scorer import MulticlusterKvCacheUtilizationScorer
from epp_plugins.scorers.multicluster_queue_scorer import MulticlusterQueueScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request

QUEUE, KV = "llm-d.ai/multicluster-queue-size", "llm-d.ai/multicluster-kv-cache-utilization"


@pytest.mark.parametrize(
    ("kind", "key", "values", "expected"),
    [
        (MulticlusterQueueScorer, QUEUE, [0, 5, 10], [1, 0.5, 0]),
        (MulticlusterQueueScorer, QUEUE, [3, 3], [1, 1]),
        (MulticlusterQueueScorer, QUEUE, [0, None, 10, nan, inf], [1, 0, 0, 0, 0]),
        (MulticlusterQueueScorer, QUEUE, [None, None], [0, 0]),
        (MulticlusterKvCacheUtilizationScorer, KV, [0.0, 0.25, 1.0], [1, 0.75, 0]),
        (MulticlusterKvCacheUtilizationScorer, KV, [None, nan, 2.0, -1.0], [0, 0, 0, 1]),
    ],
)
def test_clusters_are_scored_by_what_they_tell(
    kind: type[Scorer], key: str, values: list[float | None], expected: list[float]
) -> None:
    fleet = make_fleet(len(values))
    for endpoint, value in zip(fleet.candidates(), values, strict=True):
        if value is not None:
            endpoint.attributes[key] = value

    assert list(make_plugin(kind, fleet).score(make_request(), fleet.candidates())) == expected


@pytest.mark.parametrize("kind", [MulticlusterQueueScorer, MulticlusterKvCacheUtilizationScorer])
def test_no_clusters_give_no_scores(kind: type[Scorer]) -> None:
    assert list(make_plugin(kind).score(make_request(), Fleet().candidates())) == []
