from __future__ import annotations

from math import inf, nan
from typing import Any

import msgspec
import numpy as np
import pytest

from epp.api import (
    KV_CACHE_USAGE,
    LATENCY_PREDICTION,
    LATENCY_RECORD,
    METRICS_UPDATED_S,
    PREFILL_BACKLOG,
    PREFIX_MATCH,
    WAITING_REQUESTS,
    Endpoint,
    Fleet,
    LatencyPrediction,
    LatencyRecord,
    PrefillBacklog,
    PrefixMatch,
    Request,
    Response,
    Termination,
    Usage,
    data_key,
)
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_predictor.features import COLUMN
from epp_predictor.samples import CENSORED, FIRST_FEATURE
from tests.support.latency import School, Taught, model
from tests.support.outside import handle_with
from tests.support.plugins import Clock, label_fleet, make_fleet, make_plugin
from tests.support.scheduling import make_request, picked

TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Stage:
    """A producer in front of some endpoints, a clock, and requests that pass by."""

    def __init__(self, fleet: Fleet | int = 2, *, trained: bool = True, **parameters: object) -> None:
        self.clock = Clock()
        self.fleet = make_fleet(fleet) if isinstance(fleet, int) else fleet
        self.fleet.columns[METRICS_UPDATED_S][:] = self.clock.now
        self.school = School(model() if trained else None)
        handle = handle_with(self.school, self.fleet, name=PredictedLatencyProducer.type, clock=self.clock)
        self.producer = make_plugin(PredictedLatencyProducer, handle=handle, **parameters)
        self.producer.start()
        for endpoint in self.fleet.candidates():
            self.producer.endpoint_added(endpoint)
        self.producer.poll()

    @property
    def training(self) -> Taught:
        [training] = self.school.trainings
        return training

    def produce(self, prompt: bytes = b"x" * 4000, *, choices: int = 1, **headers: str) -> Request:
        request = make_request(prompt, headers={k.replace("_", "-"): v for k, v in headers.items()})
        request.payload.streaming, request.payload.choices = True, choices
        self.producer.produce(request, self.fleet.candidates())
        return request

    def dispatch(self, row: int = 0, *, prefill: int | None = None, choices: int = 1, **headers: str) -> Request:
        request = self.produce(choices=choices, **headers)
        others: dict[str, int | None] = {} if prefill is None else {"prefill": prefill}
        self.producer.pre_request(request, picked(self.fleet, row, **others))
        return request

    def answer(
        self,
        request: Request,
        *pieces: tuple[float, bytes],
        status: int = 200,
        bodies: bool = True,
        streaming: bool = True,
        usage: Usage | None = None,
        termination: Termination = Termination.COMPLETE,
        after_ms: float = 0.0,
        headers: dict[str, str] | None = None,
    ) -> LatencyRecord:
        """`pieces`: milliseconds to wait, and what comes then."""
        response = Response(status=status, streaming=streaming, body_seen=bodies, headers=headers or {})
        if status:
            self.producer.response_received(request, response)
        for wait_ms, piece in pieces:
            self.clock.now += wait_ms / 1e3
            self.producer.response_chunk(request, response, piece)
        self.clock.now += after_ms / 1e3
        response.usage, response.termination = usage, termination
        if termination is Termination.COMPLETE and bodies:
            self.producer.response_ending(request, response)
        self.producer.response_complete(request, response)
        record = request.data[data_key(LATENCY_RECORD)]
        assert isinstance(record, LatencyRecord)
        return record


def predicted(request: Request) -> LatencyPrediction:
    found = request.data[data_key(LATENCY_PREDICTION)]
    assert isinstance(found, LatencyPrediction)
    return found


def features(sample: Any) -> dict[str, float]:
    return {name: sample[FIRST_FEATURE + column] for name, column in COLUMN.items() if sample[FIRST_FEATURE + column]}


@pytest.mark.parametrize("duration", ["foo", "5m", 1.5])
def test_a_duration_without_effect_has_to_be_one_all_the_same(duration: object) -> None:
    """Whole nanoseconds, as the Go EPP reads them."""
    with pytest.raises(msgspec.ValidationError, match="contextTTL"):
        Stage(contextTTL=duration)


# --- predicting ----------------------------------------------------------------------------------------------------------


def test_every_candidate_gets_both_latencies_with_their_intervals() -> None:
    stage = Stage(3)
    stage.fleet.columns[WAITING_REQUESTS][:3] = 0, 0, 20

    latencies = predicted(stage.produce())

    for low, middle, high in (
        (latencies.ttft_low_ms, latencies.ttft_ms, latencies.ttft_high_ms),
        (latencies.tpot_low_ms, latencies.tpot_ms, latencies.tpot_high_ms),
    ):
        assert (low[:3] < middle[:3]).all()
        assert (middle[:3] < high[:3]).all()
        assert np.isnan(middle[3:]).all()
    assert latencies.ttft_ms[2] > 1.2 * latencies.ttft_ms[0]
    assert not latencies.has_slo
    assert (latencies.ttft_headroom_ms[:3] == inf).all()
    assert (latencies.tpot_headroom_ms[:3] == inf).all()


def test_untrained_it_publishes_nothing_and_says_so() -> None:
    stage = Stage(trained=False)

    request = stage.dispatch()

    assert data_key(LATENCY_PREDICTION) not in request.data
    record: LatencyRecord = request.data[data_key(LATENCY_RECORD)]
    assert np.isnan([record.predicted_ttft_ms, record.predicted_tpot_high_ms]).all()
    assert stage.producer.dump_state()["trained"] is False  # type: ignore[index]


def test_where_nothing_can_be_trained_it_says_why_and_requests_pass(caplog: pytest.LogCaptureFixture) -> None:
    fleet = make_fleet(1)
    producer = make_plugin(PredictedLatencyProducer, fleet)  # an outside that cannot be reached
    producer.start()
    request = make_request(b"x")

    producer.produce(request, fleet.candidates())
    producer.pre_request(request, picked(fleet, 0))
    producer.response_complete(request, Response(status=200))
    producer.poll()
    producer.stop()

    assert "no process can be started from here" in caplog.text
    assert "nothing is predicted" in caplog.text


def test_training_only_learns_and_publishes_nothing() -> None:
    stage = Stage(predictInProduce=False)

    request = stage.dispatch()
    record = stage.answer(request, (80, TOKEN))

    assert data_key(LATENCY_PREDICTION) not in request.data
    assert record.predicted_ttft_ms > 0  # to be compared with what happens
    assert stage.training.observed("ttft") == [pytest.approx(80)]


def test_features_are_those_of_the_decision() -> None:
    stage = Stage(label_fleet({}, {"role": "decode"}), endpointRoleLabel="role")
    stage.fleet.columns[KV_CACHE_USAGE][1] = 0.5
    stage.fleet.columns[WAITING_REQUESTS][1] = 3
    first = stage.dispatch(1)
    request = make_request(b"x" * 4000)
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.array([0.0, 3.0] + [0.0] * 14), 15, 64, 1000)
    request.data[data_key(PREFILL_BACKLOG)] = PrefillBacklog(np.full(16, 700.0), np.ones(16), np.ones(16))
    stage.clock.now += 0.01
    stage.producer.produce(request, stage.fleet.candidates())
    stage.producer.pre_request(request, picked(stage.fleet, 1))
    stage.fleet.columns[WAITING_REQUESTS][1] = 9  # later than the decision

    stage.answer(request, (80, TOKEN))

    assert features(stage.training.samples[0]) == pytest.approx(
        {
            "kv_cache_percentage": 0.5,
            "input_token_length": 1000,
            "num_request_waiting": 3,
            "num_request_running": 1,
            "prefix_cache_score": 0.192,
            "prefill_tokens_in_flight": 1000,
            "decode_tokens_in_flight": 128,
            "pod_type": 2,
            "uncached_tokens_in_flight": 1000,
            "prefill_backlog_tokens": 700,
            "prefill_requests_in_flight": 1,
            "metric_age_s": 0.01,
        }
    )
    stage.answer(first)


def test_what_is_unknown_of_a_server_can_be_predicted_and_learnt_from() -> None:
    stage = Stage(1)
    stage.fleet.columns[KV_CACHE_USAGE][0] = stage.fleet.columns[WAITING_REQUESTS][0] = nan
    stage.fleet.columns[METRICS_UPDATED_S][0] = -inf

    request = stage.dispatch()
    stage.answer(request, (80, TOKEN))

    assert predicted(request).ttft_ms[0] > 0
    assert np.isfinite(stage.training.samples[0][FIRST_FEATURE:]).all()


def test_a_request_that_waited_is_looked_at_again() -> None:
    stage = Stage()
    request = stage.produce()
    before = predicted(request).ttft_ms[0]
    stage.fleet.columns[WAITING_REQUESTS][0] = 30
    stage.clock.now += 1
    stage.fleet.columns[METRICS_UPDATED_S][:] = stage.clock.now
    stage.producer.pre_request(request, picked(stage.fleet, 0))

    record = stage.answer(request, (80, TOKEN))

    assert record.predicted_ttft_ms > 1.2 * before
    assert features(stage.training.samples[0])["num_request_waiting"] == 30
    assert record.ttft_ms == pytest.approx(80)


def test_no_more_requests_than_allowed_teach_in_a_second() -> None:
    stage = Stage(maxLearntPerSec=10)
    usage = Usage(prompt_tokens=1000, completion_tokens=2)
    # All dispatched at the same moment: only then is it decided who teaches, so that slow answers do as often as quick ones.
    requests = [stage.dispatch() for _ in range(25)]
    for request in requests:
        record = stage.answer(request, (50, TOKEN), (10, TOKEN), usage=usage)
        assert record.ttft_ms is not None

    assert len(stage.training.samples) == 20  # two latencies each


# --- SLOs ----------------------------------------------------------------------------------------------------------------


def test_an_absent_slo_is_infinite_beside_one_that_is_there() -> None:
    latencies = predicted(Stage().produce(x_slo_ttft_ms="5000"))

    assert (latencies.ttft_slo_ms, latencies.tpot_slo_ms) == (5000, inf)
    assert latencies.has_slo
    assert (latencies.ttft_headroom_ms[:2] == 5000 - latencies.ttft_ms[:2]).all()
    assert (latencies.tpot_headroom_ms[:2] == inf).all()


def test_the_budget_is_the_tightest_promise_on_the_endpoint() -> None:
    stage = Stage(label_fleet({}, {}, {"role": "prefill"}), endpointRoleLabel="role", sloBufferFactor=0.5)
    running = stage.dispatch(0, x_slo_tpot_ms="20")
    stage.dispatch(0)  # one without an SLO hides nobody's
    stage.dispatch(2, x_slo_tpot_ms="5")

    with_slo = predicted(stage.produce(x_slo_tpot_ms="30")).tpot_budget_ms[:3].tolist()
    without = predicted(stage.produce()).tpot_budget_ms[:3].tolist()
    stage.answer(running, (80, TOKEN))
    afterwards = predicted(stage.produce()).tpot_budget_ms[:3].tolist()

    assert with_slo == [10, 15, inf]
    assert without == [10, inf, inf]
    assert afterwards == [inf, inf, inf]


# --- learning ------------------------------------------------------------------------------------------------------------


def test_time_to_first_token_ends_with_the_first_content() -> None:
    stage = Stage()

    record = stage.answer(stage.dispatch(), (30, ROLE), (50, TOKEN), (10, TOKEN), (10, TOKEN + TOKEN), (5, DONE))

    assert record.ttft_ms == pytest.approx(80)
    assert record.tpot_observations_ms == pytest.approx([10, 5])
    assert record.average_tpot_ms == pytest.approx(20 / 3)
    assert stage.training.observed("ttft") == [pytest.approx(80)]
    assert stage.training.observed("tpot") == [pytest.approx(20 / 3)]


def test_the_server_knows_best_how_many_tokens_came() -> None:
    stage = Stage()

    record = stage.answer(
        stage.dispatch(), (80, TOKEN), (10, TOKEN), (10, TOKEN), usage=Usage(prompt_tokens=5, completion_tokens=6)
    )

    assert record.tokens == 6
    assert stage.training.observed("tpot") == [pytest.approx(20 / 5)]


@pytest.mark.parametrize("usage", [None, Usage(completion_tokens=12)], ids=["events", "usage"])
def test_choices_that_come_side_by_side_do_not_make_tokens_quicker(usage: Usage | None) -> None:
    """Two prompts with n = 2, three tokens each, 10 ms apart."""
    stage = Stage()

    record = stage.answer(
        stage.dispatch(choices=4), (80, TOKEN * 4), (10, TOKEN * 3), (0, TOKEN), (10, TOKEN * 4), usage=usage
    )

    assert record.tokens == 12
    assert record.average_tpot_ms == pytest.approx(10)
    assert record.tpot_observations_ms == pytest.approx([40 / 3, 0, 10])
    assert stage.training.observed("tpot") == [pytest.approx(10)]


def test_choices_of_one_token_each_have_no_time_between_tokens() -> None:
    stage = Stage()

    record = stage.answer(stage.dispatch(choices=2), (80, TOKEN), (1, TOKEN), usage=Usage(completion_tokens=2))

    assert record.average_tpot_ms is None
    assert stage.training.observed("tpot") == []


@pytest.mark.parametrize(
    ("answer", "ttft_ms", "tpot_ms"),
    [
        ({"status": 500}, [], []),
        ({"status": 404, "streaming": False}, [], []),
        ({"streaming": False}, [], []),
        ({"headers": {"content-encoding": "gzip"}}, [], []),
        ({"termination": Termination.ERROR}, [80], []),
    ],
    ids=str,
)
def test_errors_and_whole_answers_teach_nothing(
    answer: dict[str, Any], ttft_ms: list[float], tpot_ms: list[float]
) -> None:
    stage = Stage()

    stage.answer(stage.dispatch(), (80, TOKEN), (10, TOKEN), **answer)

    assert stage.training.observed("ttft") == [pytest.approx(v) for v in ttft_ms]
    assert stage.training.observed("tpot") == tpot_ms


def test_a_stream_without_content_teaches_nothing() -> None:
    stage = Stage()

    stage.answer(stage.dispatch(), (30, ROLE), (30, b'data: {"error": {"message": "no"}}\n\n'), (1, DONE))

    assert stage.training.samples == []


@pytest.mark.parametrize("termination", [Termination.CLIENT_DISCONNECT, Termination.EVICTED])
@pytest.mark.parametrize("status", [0, 200])
def test_who_gave_up_would_have_waited_longer(status: int, termination: Termination) -> None:
    stage = Stage()

    stage.answer(stage.dispatch(), after_ms=9000, status=status, termination=termination)

    assert stage.training.observed("ttft") == [pytest.approx(9000)]
    assert stage.training.samples[0][CENSORED] == 1


def test_who_gave_up_in_the_middle_shows_a_least_time_between_tokens() -> None:
    stage = Stage()

    stage.answer(stage.dispatch(), (80, TOKEN), (10, TOKEN), after_ms=190, termination=Termination.CLIENT_DISCONNECT)

    assert stage.training.observed("tpot") == [pytest.approx(100)]
    assert [sample[CENSORED] for sample in stage.training.samples] == [0, 1]


@pytest.mark.parametrize(("more", "least_ms"), [(TOKEN, 200), (TOKEN * 3, 100)], ids=["first tokens", "two of each"])
def test_who_gave_up_several_choices_shows_the_least_time_of_each(more: bytes, least_ms: float) -> None:
    stage = Stage()

    request = stage.dispatch(choices=2)
    stage.answer(request, (80, TOKEN), (10, more), after_ms=190, termination=Termination.CLIENT_DISCONNECT)

    assert stage.training.observed("tpot") == [pytest.approx(least_ms)]


@pytest.mark.parametrize("answer", [{"bodies": False}, {"streaming": False}], ids=str)
def test_who_gave_up_what_does_not_show_its_first_token_teaches_nothing(answer: dict[str, Any]) -> None:
    stage = Stage()

    stage.answer(stage.dispatch(), after_ms=9000, termination=Termination.CLIENT_DISCONNECT, **answer)

    assert stage.training.samples == []


def test_without_response_bodies_nothing_is_learnt_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()

    for _ in range(250):
        stage.answer(stage.dispatch(), after_ms=10, bodies=False)

    assert stage.training.samples == []
    assert caplog.text.count("has sent no response body") == 1


def test_with_a_sample_of_bodies_others_are_taken_to_begin_when_predicted() -> None:
    stage = Stage()
    request = stage.dispatch()
    expected_ms = request.data[data_key(LATENCY_RECORD)].predicted_ttft_ms
    stage.producer.response_received(request, Response(status=200, streaming=True))
    seen = []

    for wait_ms in (0, expected_ms * 0.9, expected_ms * 0.2):
        stage.clock.now += wait_ms / 1e3
        stage.answer(stage.dispatch(1), (0.01, TOKEN))
        seen.append(stage.producer._ledger.counts[4:, 0].tolist())

    assert seen == [[1, 0], [1, 0], [0, 1]]


def test_the_prompt_is_learnt_where_it_is_read_and_tokens_where_they_are_made() -> None:
    stage = Stage(label_fleet({"role": "prefill"}, {"role": "decode"}), endpointRoleLabel="role")

    stage.answer(stage.dispatch(1, prefill=0), (80, TOKEN), (10, TOKEN), (10, TOKEN))

    first, last = stage.training.samples
    assert (features(first)["pod_type"], features(last)["pod_type"]) == (1, 2)
    assert stage.training.observed("ttft") == [pytest.approx(80)]
    assert stage.training.observed("tpot") == [pytest.approx(10)]


@pytest.mark.parametrize("choices", [1, 4])
def test_the_expected_length_of_answers_follows_what_they_have(choices: int) -> None:
    stage = Stage(1)
    for _ in range(300):
        stage.answer(stage.dispatch(choices=choices), usage=Usage(completion_tokens=1000 * choices))

    stage.dispatch(choices=3)

    assert stage.producer._ledger.counts[2, 0] == pytest.approx(3000, rel=0.01)


# --- over reloads and restarts -------------------------------------------------------------------------------------------


def test_other_parameters_keep_the_model_the_process_and_the_counts() -> None:
    stage = Stage()
    before = stage.producer
    running = stage.dispatch()

    stage.producer = make_plugin(PredictedLatencyProducer, handle=before.handle, sloBufferFactor=2)
    stage.producer.take_over(before)
    stage.producer.start()
    for endpoint in stage.fleet.candidates():
        stage.producer.endpoint_added(endpoint)
    counted = stage.producer._ledger.counts[0, 0]
    before.response_complete(running, Response(status=200))
    before.stop()

    assert predicted(stage.produce()).ttft_ms[0] > 0
    assert counted == 1
    assert not stage.producer._ledger.counts.any()
    assert stage.training.closed == 0
    stage.producer.stop()
    assert stage.training.closed == 1


def test_a_saved_model_predicts_at_once_and_candidates_have_to_beat_it() -> None:
    before = Stage()
    saved = b"".join(before.producer.save_state())
    after = Stage(trained=False)
    producer = make_plugin(PredictedLatencyProducer, handle=after.producer.handle)

    producer.load_state(memoryview(saved), version=1)
    producer.start()
    for endpoint in after.fleet.candidates():
        producer.endpoint_added(endpoint)
    request = make_request(b"x" * 4000)
    producer.produce(request, after.fleet.candidates())

    assert (predicted(request).ttft_ms == predicted(before.produce()).ttft_ms)[:2].all()
    assert after.school.trainings[-1].in_use


def test_nothing_is_saved_untrained_and_nothing_of_it_is_loaded() -> None:
    stage = Stage(trained=False)

    saved = b"".join(stage.producer.save_state())
    stage.producer.load_state(memoryview(saved), version=1)

    assert saved == b""


def test_a_damaged_state_is_refused() -> None:
    saved = bytearray(b"".join(Stage().producer.save_state()))
    saved[-40] ^= 1

    with pytest.raises(ValueError, match="checksum"):
        Stage(trained=False).producer.load_state(memoryview(saved), version=1)


def test_endpoints_that_never_come_back_are_forgotten() -> None:
    stage = Stage()
    saved = b"".join(stage.producer.save_state())
    later = Stage(trained=False)
    producer = make_plugin(PredictedLatencyProducer, handle=later.producer.handle)
    producer.load_state(memoryview(saved), version=1)
    producer.endpoint_added(later.fleet.candidates().endpoints[0])

    later.clock.now += 3600
    producer.poll()

    assert set(producer._learner.predictor.snapshot().endpoints) == {"10.0.0.1:8000"}  # type: ignore[union-attr]


def test_an_endpoint_at_another_address_gets_a_number_of_its_own() -> None:
    stage = Stage(1)
    [gone] = stage.fleet.candidates().endpoints
    stage.producer.endpoint_removed(gone)
    stage.fleet.remove(gone)
    comes = Endpoint("s9", "10.0.0.9", 8000)
    stage.fleet.add(comes)
    stage.producer.endpoint_added(comes)

    names = stage.producer._learner.predictor.snapshot()

    assert names is not None
    assert set(names.endpoints) == {"10.0.0.9:8000"}
