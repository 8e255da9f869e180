from __future__ import annotations

import pytest

from epp.api import ConfigError, Metrics
from tests.support.recording import make_recorder, value


def test_a_plugins_metrics_appear_on_the_page() -> None:
    recorder = make_recorder()
    metrics: Metrics = recorder.plugin_metrics

    metrics.counter("hits_total", "Hits.", ["kind"]).labels("warm").inc()
    metrics.gauge("size", "Size.").set(4)
    metrics.histogram("ratio", "Ratio.", buckets=(0.5, 1.0)).observe(0.7)

    assert value(recorder, "hits_total", kind="warm") == 1
    assert value(recorder, "size") == 4
    assert value(recorder, "ratio_bucket", le="0.5") == 0
    assert value(recorder, "ratio_bucket", le="1") == 1


def test_asking_twice_gives_the_same_metric_so_a_reload_keeps_counting() -> None:
    recorder = make_recorder()

    for _ in range(2):
        recorder.plugin_metrics.counter("hits", "Hits.").inc()

    assert value(recorder, "hits_total") == 2


@pytest.mark.parametrize("taken", ["llm_epp_plugin_errors_total", "inference_objective_request_total"])
def test_the_pickers_own_names_are_refused(taken: str) -> None:
    with pytest.raises(ConfigError, match="the picker's own"):
        make_recorder().plugin_metrics.counter(taken, "")


def test_another_shape_under_the_same_name_is_refused() -> None:
    metrics = make_recorder().plugin_metrics
    metrics.gauge("size", "", ["a"])

    with pytest.raises(ConfigError, match="exists"):
        metrics.gauge("size", "", ["b"])


@pytest.mark.parametrize(("name", "label"), [("has space", "a"), ("1st", "a"), ("ok", "a-b"), ("ok", "__a"), ("", "a")])
def test_names_that_prometheus_does_not_allow_are_refused(name: str, label: str) -> None:
    with pytest.raises(ConfigError):
        make_recorder().plugin_metrics.gauge(name, "", [label])


def test_model_names_share_the_pickers_limit() -> None:
    recorder = make_recorder(model_limit=2)
    metric = recorder.plugin_metrics.gauge("g", "", ["model_name"])

    for i in range(5):
        metric.labels(f"m{i}").set(1)

    assert value(recorder, "g", model_name="m1") == 1
    assert value(recorder, "g", model_name="m2") is None
    assert value(recorder, "g", model_name="other") == 1


def test_a_metric_refuses_what_its_kind_cannot_do() -> None:
    metrics = make_recorder().plugin_metrics

    with pytest.raises(TypeError, match="only a histogram"):
        metrics.gauge("g", "").observe(1)
    with pytest.raises(TypeError, match="only a gauge"):
        metrics.counter("c", "").set(1)


def test_a_metric_that_the_go_epp_has_under_two_names_is_shown_under_both() -> None:
    recorder = make_recorder()
    size = recorder.plugin_metrics.gauge("llm_d_epp_prefix_indexer_size", "Size.", ("plugin_name", "plugin_type"))

    size.labels("one", "p").set(3)
    size.labels("two", "p").set(4)

    assert value(recorder, "llm_d_epp_prefix_indexer_size", plugin_name="one", plugin_type="p") == 3
    assert value(recorder, "inference_extension_prefix_indexer_size") == 7


def test_the_older_of_two_names_is_taken_too() -> None:
    metrics = make_recorder().plugin_metrics
    metrics.counter("llm_d_epp_disagg_decision_total", "", ("model_name", "decision_type"))

    with pytest.raises(ConfigError, match="the picker's own"):
        metrics.counter("llm_d_inference_scheduler_disagg_decision_total", "")
