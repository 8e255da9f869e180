from __future__ import annotations

import re

import numpy as np
import pytest

from epp.api import (
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Code,
    Endpoint,
    Fleet,
    Plugin,
    Termination,
    Usage,
)
from epp.observability.metrics import Recorder
from epp.scheduling.observer import TIMED_EVERY, Observer
from tests.support.plugins import Clock, make_handle
from tests.support.recording import make_recorder, make_request, make_response, read_page, value

M = {"model_name": "m", "target_model_name": "t"}
R = {**M, "fairness_id": "default-flow", "priority": "0"}


class Sample(Plugin):
    type = "sample-scorer"


def make_plugin() -> Sample:
    return Sample(Sample.Params(), make_handle(name="mine"))


def served(recorder: Recorder, **response: object) -> None:
    request = make_request("m", target="t")
    recorder.request_routed(request)
    recorder.request_started(request)
    recorder.request_ended(request, make_response(**response))  # type: ignore[arg-type]


def test_a_routed_request_counts_under_both_names() -> None:
    recorder = make_recorder()

    recorder.request_routed(make_request("m", target="t", fairness_id="a", priority=-1))
    recorder.request_routed(make_request("m", target="t", fairness_id="b", priority=-1))

    assert value(recorder, "inference_objective_request_total", **M, priority="-1") == 2
    assert value(recorder, "llm_d_epp_request_total", **M, fairness_id="a", priority="-1") == 1
    assert value(recorder, "inference_objective_request_sizes_sum", **M) == 1000


def test_a_streamed_response_gives_times_sizes_and_tokens() -> None:
    recorder = make_recorder()

    served(recorder, usage=Usage(prompt_tokens=40, completion_tokens=4, cached_tokens=0))

    assert value(recorder, "inference_objective_request_duration_seconds_sum", **M) == 2.0
    assert value(recorder, "inference_objective_request_ttft_seconds_sum", **M) == 0.5
    assert value(recorder, "llm_d_epp_request_ttft_seconds_sum", **R, streaming="true") == 0.5
    assert value(recorder, "inference_objective_request_tpot_seconds_sum", **M) == pytest.approx(1.5 / 3)
    assert value(recorder, "inference_objective_normalized_time_per_output_token_seconds_sum", **M) == 0.5
    assert value(recorder, "llm_d_epp_response_size_bytes_sum", **R) == 900
    assert value(recorder, "inference_objective_input_tokens_sum", **M) == 40
    assert value(recorder, "inference_objective_output_tokens_sum", **M) == 4
    assert value(recorder, "llm_d_epp_request_cached_tokens_count", **R) == 1


def test_a_whole_response_has_no_time_per_token_and_its_duration_as_time_to_first() -> None:
    recorder = make_recorder()

    served(recorder, streaming=False, usage=Usage(completion_tokens=4))

    assert value(recorder, "llm_d_epp_request_ttft_seconds_sum", **R, streaming="false") == 2.0
    assert value(recorder, "inference_objective_request_tpot_seconds_count", **M) == 0


def test_pieces_of_a_streamed_response_give_the_time_between_them_until_it_ends() -> None:
    recorder = make_recorder()
    request = make_request("m", target="t")
    recorder.request_started(request)

    recorder.pieces_came(request, [0.03, 0.05])
    recorder.request_ended(request, make_response())
    recorder.pieces_came(request, [9.0])

    assert value(recorder, "llm_d_epp_request_streaming_itl_seconds_count", **R) == 2
    assert value(recorder, "llm_d_epp_request_streaming_itl_seconds_sum", **R) == pytest.approx(0.08)


def test_what_the_picker_itself_takes_for_requests_and_responses() -> None:
    request = make_request("m", target="t")
    recorder = Recorder(Clock(request.received_s + 0.25), process=False)

    recorder.request_routed(request)
    recorder.response_handled(0.001, count=8)

    assert value(recorder, "llm_d_epp_request_processing_duration_seconds_sum") == pytest.approx(0.25)
    assert value(recorder, "llm_d_epp_response_processing_duration_seconds_count") == 8
    assert value(recorder, "llm_d_epp_response_processing_duration_seconds_sum") == pytest.approx(0.008)


def test_tokens_that_were_not_reported_are_not_counted() -> None:
    recorder = make_recorder()

    served(recorder, usage=Usage())

    assert value(recorder, "inference_objective_input_tokens_count", **M) == 0
    assert value(recorder, "inference_objective_prompt_cached_tokens_count", **M) == 0


def test_running_requests_return_to_zero_also_when_ended_twice() -> None:
    recorder = make_recorder()
    request = make_request()
    recorder.request_started(request)
    during = value(recorder, "inference_objective_running_requests", model_name="m")

    recorder.request_ended(request, make_response())
    recorder.request_ended(request, make_response())

    assert during == 1
    assert value(recorder, "inference_objective_running_requests", model_name="m") == 0


def test_a_request_ends_on_the_gauge_it_began_on_though_its_names_changed() -> None:
    # A plugin may set the model after the request was started; the gauge must not drift.
    recorder = make_recorder()
    request = make_request("before")
    recorder.request_started(request)

    request.incoming_model = "after"
    recorder.request_ended(request, make_response())

    assert value(recorder, "inference_objective_running_requests", model_name="before") == 0
    assert value(recorder, "inference_objective_running_requests", model_name="after") is None


@pytest.mark.parametrize(
    ("status", "termination", "code"),
    [
        (500, Termination.COMPLETE, "ModelServerError"),
        (404, Termination.COMPLETE, "ModelServerError"),
        (503, Termination.ERROR, "ModelServerError"),
        (200, Termination.ERROR, "Unknown"),
        (0, Termination.ERROR, "Unknown"),
        (200, Termination.COMPLETE, None),
        (302, Termination.COMPLETE, None),
        (0, Termination.CLIENT_DISCONNECT, None),
    ],
)
def test_how_a_request_ended_decides_whether_it_was_an_error(
    status: int, termination: Termination, code: str | None
) -> None:
    recorder = make_recorder()
    request = make_request("m", target="t")
    recorder.request_started(request)
    response = make_response(status=status)
    response.termination = termination

    recorder.request_ended(request, response)

    errors = {
        dict(labels)["error_code"] for name, labels in read_page(recorder) if name == "llm_d_epp_request_error_total"
    }
    assert errors == ({code} if code else set())


def test_a_cut_response_has_no_duration() -> None:
    recorder = make_recorder()
    request = make_request("m", target="t")
    recorder.request_started(request)
    response = make_response()
    response.termination = Termination.CLIENT_DISCONNECT

    recorder.request_ended(request, response)

    assert value(recorder, "inference_objective_request_duration_seconds_count", **M) == 0


def test_refusals_count_by_code_also_before_anything_is_known() -> None:
    recorder = make_recorder()

    recorder.request_refused(None, Code.BAD_REQUEST)
    recorder.request_refused(make_request("m", target="t"), Code.RESOURCE_EXHAUSTED)

    total = "inference_objective_request_error_total"
    assert value(recorder, total, model_name="", target_model_name="", error_code="BadRequest") == 1
    assert value(recorder, total, **M, error_code="ResourceExhausted") == 1


def test_scheduling_attempts_name_the_pod_and_the_endpoint() -> None:
    recorder = make_recorder()
    target = Endpoint("pod-1-rank-1", "10.0.0.1", 8001, namespace="ns", pod_name="pod-1")

    recorder.scheduled(make_request(), 0.0003, target)
    recorder.scheduled(make_request(), 0.0003, None)

    where = {"target_model_name": "m", "namespace": "ns", "port": "8001"}
    nowhere = {"target_model_name": "m", "namespace": "", "port": ""}
    gie, llm_d = "inference_extension_scheduler_attempts_total", "llm_d_epp_scheduler_attempts_total"
    assert value(recorder, gie, status="success", pod_name="pod-1", **where) == 1
    assert value(recorder, llm_d, status="success", endpoint_name="pod-1-rank-1", **where) == 1
    assert value(recorder, gie, status="failure", pod_name="", **nowhere) == 1
    assert value(recorder, "inference_extension_scheduler_e2e_duration_seconds_count") == 2


def test_an_endpoint_that_goes_takes_its_scheduling_attempts_along() -> None:
    """Pods have names of their own: series that stayed would add up for as long as the process runs."""
    recorder = make_recorder()
    gone, stays = (Endpoint(f"pod-{n}", f"10.0.0.{n}", 8000, namespace="ns", pod_name=f"pod-{n}") for n in (1, 2))
    for target in (gone, stays):
        recorder.scheduled(make_request("a"), 0.0003, target)
        recorder.scheduled(make_request("b"), 0.0003, target)

    recorder.endpoint_removed(gone)

    total = "inference_extension_scheduler_attempts_total"
    assert b"pod-1" not in recorder.render()[0]
    assert (
        value(recorder, total, status="success", pod_name="pod-2", namespace="ns", port="8000", target_model_name="b")
        == 1
    )
    recorder.scheduled(make_request("a"), 0.0003, gone)
    assert (
        value(recorder, total, status="success", pod_name="pod-1", namespace="ns", port="8000", target_model_name="a")
        == 1
    )


def test_models_beyond_the_limit_are_other_but_configured_ones_keep_their_name() -> None:
    recorder = make_recorder(model_limit=3)
    for i in range(3):
        recorder.request_routed(make_request(f"m{i}"))
    recorder.keep_models(["configured"])

    recorder.request_routed(make_request("one-more"))
    recorder.request_routed(make_request("configured"))
    recorder.model_rewritten("rule", "one-more", "rewritten")
    recorder.request_routed(make_request("m1", target="rewritten"))

    total = "inference_objective_request_total"
    rewrites = "inference_extension_model_rewrite_decisions_total"
    assert value(recorder, total, model_name="other", target_model_name="other", priority="0") == 1
    assert value(recorder, total, model_name="configured", target_model_name="configured", priority="0") == 1
    assert value(recorder, total, model_name="m1", target_model_name="rewritten", priority="0") == 1
    assert value(recorder, rewrites, model_rewrite_name="rule", model_name="other", target_model="rewritten") == 1


def test_a_client_that_varies_everything_cannot_make_series_without_end() -> None:
    recorder = make_recorder(combination_limit=10)

    for i in range(40):
        recorder.request_routed(make_request(f"m{i % 4}", fairness_id=f"f{i}"))

    flows = [dict(labels)["fairness_id"] for name, labels in read_page(recorder) if name == "llm_d_epp_request_total"]
    assert len(flows) == 10 + 4
    assert flows.count("other") == 4


def test_a_fairness_id_limit_of_zero_tells_none_apart() -> None:
    recorder = make_recorder(fairness_id_limit=0)

    recorder.request_routed(make_request("m", target="t", fairness_id="a"))

    assert value(recorder, "llm_d_epp_request_total", **M, fairness_id="other", priority="0") == 1


def test_a_timed_call_stands_for_those_that_are_not_timed() -> None:
    recorder = make_recorder()
    observer: Observer = recorder

    observer.timer("Scorer", make_plugin())(0.0004)

    labels = {"extension_point": "Scorer", "plugin_type": "sample-scorer", "plugin_name": "mine"}
    assert value(recorder, "inference_extension_plugin_duration_seconds_bucket", **labels, le="0.0005") == TIMED_EVERY
    assert value(recorder, "inference_extension_plugin_duration_seconds_bucket", **labels, le="0.0002") == 0
    assert value(recorder, "llm_d_epp_plugin_duration_seconds_sum", **labels) == 0.0004 * TIMED_EVERY


def test_a_failing_plugin_is_counted_always_and_logged_once_a_minute_per_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    recorder = make_recorder(clock)
    plugin = make_plugin()

    for error in (ValueError("a"), ValueError("b"), KeyError("c")):
        recorder.plugin_failed("Scorer", plugin, error)
    clock.now += 61
    recorder.plugin_failed("Scorer", plugin, ValueError("d"))

    labels = {"extension_point": "Scorer", "plugin_type": "sample-scorer", "plugin_name": "mine"}
    logged = [(str(r.exc_info[1]), r.fields["not_logged"]) for r in caplog.records if r.exc_info]  # type: ignore[attr-defined]
    assert value(recorder, "llm_epp_plugin_errors_total", **labels) == 4
    assert logged == [("a", 0), ("'c'", 0), ("d", 1)]


def test_stream_metrics_are_shown_only_when_asked_for() -> None:
    quiet, asked = make_recorder(), make_recorder(stream_metrics=True)
    for recorder in (quiet, asked):
        recorder.stream_opened()
        recorder.stream_opened()
        recorder.stream_closed("Canceled", 0.02)

    assert value(quiet, "llm_d_epp_extproc_streams_inflight") is None
    assert value(asked, "llm_d_epp_extproc_streams_inflight") == 1
    assert value(asked, "llm_d_epp_extproc_streams_total", code="Canceled") == 1
    assert value(asked, "llm_d_epp_extproc_stream_duration_seconds_bucket", le="0.05") == 1


def test_build_and_configuration_are_shown() -> None:
    recorder = make_recorder(commit="abc", build_ref="v1")
    before = value(recorder, "llm_epp_config_info", hash="h2")

    recorder.config_loaded("h1")
    recorder.config_loaded("h2")
    recorder.message_unexpected(3)

    assert before is None
    assert value(recorder, "llm_epp_config_info", hash="h2") == 1
    assert value(recorder, "llm_epp_config_info", hash="h1") is None
    assert value(recorder, "inference_extension_info", commit="abc", build_ref="v1") == 1
    assert value(recorder, "llm_epp_unexpected_messages_total") == 3


def make_fleet(*updated_s: float) -> Fleet:
    fleet = Fleet()
    for i, at in enumerate(updated_s):
        endpoint = Endpoint(f"pod-{i}-rank-0", f"10.0.0.{i + 1}", 8000)
        fleet.add(endpoint)
        fleet.columns[METRICS_UPDATED_S][endpoint.row] = at
        fleet.columns[WAITING_REQUESTS][endpoint.row] = 10.0 * (i + 1)
        fleet.columns[RUNNING_REQUESTS][endpoint.row] = 2.0
        fleet.columns[KV_CACHE_USAGE][endpoint.row] = 0.25 * (i + 1)
        fleet.columns[IN_FLIGHT_REQUESTS][endpoint.row] = 7.0
    return fleet


def test_pool_averages_count_endpoints_with_fresh_metrics_only() -> None:
    clock = Clock(100.0)
    recorder = make_recorder(clock)

    recorder.watch_fleet(make_fleet(99.5, 99.0, 90.0, -np.inf), clock, 2.0, "pool")

    assert value(recorder, "inference_pool_average_queue_size", name="pool") == 15
    assert value(recorder, "inference_pool_average_kv_cache_utilization", name="pool") == 0.375
    assert value(recorder, "llm_d_epp_average_running_requests", name="pool") == 2
    assert value(recorder, "llm_d_epp_std_dev_queue_size", name="pool") == pytest.approx(50**0.5)
    assert value(recorder, "inference_pool_ready_pods", name="pool") == 2
    assert value(recorder, "llm_d_epp_ready_endpoints", name="pool") == 2


def test_each_endpoint_has_its_queue_its_age_and_its_requests() -> None:
    clock = Clock(100.0)
    recorder = make_recorder(clock)

    recorder.watch_fleet(make_fleet(99.5, -np.inf), clock, 2.0, "pool")

    assert value(recorder, "inference_pool_per_pod_queue_size", name="pool", model_server_pod="pod-1-rank-0") == 20
    assert value(recorder, "llm_d_epp_per_endpoint_queue_size", name="pool", model_server_endpoint="pod-0-rank-0") == 10
    assert value(recorder, "llm_epp_endpoint_metrics_age_seconds", endpoint="pod-0-rank-0") == 0.5
    assert value(recorder, "llm_epp_endpoint_metrics_age_seconds", endpoint="pod-1-rank-0") == float("inf")
    assert value(recorder, "llm_epp_in_flight_requests", endpoint="pod-0-rank-0") == 7


def test_an_empty_pool_is_shown_as_zeros() -> None:
    recorder = make_recorder()

    recorder.watch_fleet(Fleet(), Clock(), 2.0, "pool")

    assert value(recorder, "inference_pool_ready_pods", name="pool") == 0
    assert value(recorder, "inference_pool_average_queue_size", name="pool") == 0


def test_scrapes_are_read_when_the_page_is() -> None:
    recorder = make_recorder()
    counts = [("pod-0", "ok", 1)]
    recorder.watch_scrapes(lambda: counts)

    counts.append(("pod-0", "timeout", 3))

    assert value(recorder, "llm_epp_scrapes_total", endpoint="pod-0", result="timeout") == 3


# What tests and dashboards of the Go EPP compare (metrics.go, GIE 1.5), as the page must print it.
GO_HEADS = {
    "inference_objective_request_total": "Counter of inference objective requests broken out for each model and target model.",
    "inference_objective_input_tokens": "Inference objective input token count distribution for requests in each model.",
    "inference_objective_output_tokens": "Inference objective output token count distribution for requests in each model.",
    "inference_objective_running_requests": "Inference objective number of running requests in each model.",
    "inference_pool_ready_pods": "The number of ready pods in the inference server pool.",
    "inference_pool_per_pod_queue_size": "The total number of requests pending in the model server queue for each "
    "underlying pod.",
}


def test_the_page_has_the_heads_of_the_go_epp() -> None:
    recorder = make_recorder()
    served(recorder)
    recorder.watch_fleet(make_fleet(99.5), Clock(), 2.0, "pool")

    lines = recorder.render()[0].decode().splitlines()

    heads = [f"# HELP {name} [ALPHA] {text}" for name, text in GO_HEADS.items()]
    assert [head for head in heads if head not in lines] == []


# Bucket bounds of protocol.md 8.1 as `le` values, in full.
GO_BUCKETS = {
    "inference_objective_response_sizes": "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536",
    "inference_objective_input_tokens": "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536 131072 262144 "
    "524288 1.048576e+06",
    "inference_objective_prompt_cached_tokens": "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536 131072 "
    "262144 524288 1.048576e+06",
    "inference_objective_output_tokens": "1 8 16 32 64 128 256 512 1024 2048 4096 8192",
    "inference_objective_request_sizes": "64 128 256 512 1024 2048 4096 8192 16384 32768 65536 131072 262144 524288 "
    "1.048576e+06 2.097152e+06 4.194304e+06 8.388608e+06 1.6777216e+07 3.3554432e+07 6.7108864e+07 1.34217728e+08 "
    "2.68435456e+08 5.36870912e+08 1.073741824e+09",
    "inference_objective_request_duration_seconds": "0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 "
    "20 30 45 60 120 180 240 300 360 480 600 900 1200 1800 2700 3600",
    "inference_objective_request_ttft_seconds": "0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 "
    "20 30 45 60 120 180 240 300 360 480 600 900 1200 1800 2700 3600",
    "inference_objective_request_tpot_seconds": "0.0005 0.00205 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.125 0.15 0.2 0.3 "
    "0.4 0.5 0.6 0.8 1 1.5 2 3 4.5 6 12 18 24 30 36 48 60 90 120 180 270 360",
    "inference_objective_normalized_time_per_output_token_seconds": "0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1 2 5 10",
    "inference_extension_scheduler_e2e_duration_seconds": "0.0001 0.0002 0.0005 0.001 0.002 0.005 0.01 0.02 0.05 0.1",
    "llm_d_epp_response_size_bytes": "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536",
    "llm_d_epp_request_streaming_itl_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.15 0.2 0.3 0.5 0.75 1 2",
    "llm_d_epp_request_processing_duration_seconds": "0.0005 0.001 0.002 0.005 0.01 0.015 0.025 0.04 0.06 0.1 0.25 0.5 1 "
    "2.5 5 10",
    "llm_d_epp_response_processing_duration_seconds": "0.0001 0.00025 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 "
    "0.5 1 2.5 5",
    "llm_d_epp_request_streaming_tpot_seconds": "0.0005 0.00205 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.125 0.15 0.2 0.3 "
    "0.4 0.5 0.6 0.8 1 2",
}


@pytest.mark.parametrize("name", sorted(GO_BUCKETS))
def test_buckets_are_those_of_the_go_epp(name: str) -> None:
    recorder = make_recorder()
    served(recorder)
    recorder.response_handled(0.0)

    page = recorder.render()[0].decode()

    bounds = re.findall(rf'^{name}_bucket\{{.*?le="([^"]+)"', page, re.MULTILINE)
    assert bounds == [*GO_BUCKETS[name].split(), "+Inf"]
