"""What an Endpoint Picker calls: predict, keep, observe, publish."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from epp_predictor import COLUMN, Predictor, Snapshot, TargetSnapshot, new_features
from epp_predictor.calibration import CalibrationState
from epp_predictor.features import COUNT, Floats
from epp_predictor.fitting import Recipe, fit
from epp_predictor.samples import ENDPOINT, OBSERVED, TIME, WIDTH
from tests.support.latency_world import draw

RECIPE = Recipe(trees=20)
FIRST: Mapping[str, int] = MappingProxyType({"ttft": 1, "tpot": 1})


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return made(0)


def made(seed: int, *, versions: Mapping[str, int] = FIRST) -> Snapshot:
    requests = draw(2000, np.random.default_rng(seed))
    ages = np.zeros(2000)
    targets = {
        t: TargetSnapshot(
            fit(requests.features, v, requests.endpoints, ages, target=t, recipe=RECIPE, now_s=50.0),
            CalibrationState(),
            versions[t],
            0.1,
        )
        for t, v in (("ttft", requests.ttft_ms), ("tpot", requests.tpot_ms))
        if t in versions
    }
    return Snapshot(targets, 50.0)


def ask(predictor: Predictor, count: int = 4, seed: int = 5) -> tuple[Floats, np.ndarray]:
    requests = draw(count, np.random.default_rng(seed))
    numbers = [predictor.endpoint(f"s{e}") for e in requests.endpoints]
    return np.asfortranarray(requests.features), np.array(numbers)


def teach(predictor: Predictor, count: int, seed: int = 9, factor: float = 1.0) -> None:
    requests = draw(count, np.random.default_rng(seed), tails=False)
    numbers = np.array([predictor.endpoint(f"s{e}") for e in requests.endpoints])
    prediction = predictor.predict(requests.features, numbers)
    for i in range(count):
        predictor.observe(
            prediction.keep(i), ttft_ms=requests.ttft_ms[i] * factor, tpot_ms=requests.tpot_ms[i] * factor
        )


def test_untrained_it_claims_nothing() -> None:
    predictor = Predictor()

    prediction = predictor.predict(*ask(predictor))

    assert not predictor.is_trained
    assert prediction.ttft is None
    assert prediction.tpot is None
    assert predictor.status() == {}
    assert predictor.snapshot() is None


def test_untrained_it_still_passes_samples_on() -> None:
    rows: list[Floats] = []
    predictor = Predictor(on_sample=rows.append, clock=lambda: 12.0)
    features, endpoints = ask(predictor)

    assert predictor.observe(predictor.predict(features, endpoints).keep(2), ttft_ms=80.0)

    (row,) = rows
    assert row.shape == (WIDTH,)
    assert (row[TIME], row[ENDPOINT], row[OBSERVED["ttft"]]) == (12.0, endpoints[2], 80.0)
    assert np.isnan(row[OBSERVED["tpot"]])
    np.testing.assert_array_equal(row[-COUNT:], features[2])


def test_trained_it_gives_a_quantile_and_an_interval_for_each_candidate(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)
    teach(predictor, 500)

    prediction = predictor.predict(*ask(predictor, 10))

    for estimate in (prediction.ttft, prediction.tpot):
        assert estimate is not None
        assert estimate.ms.shape == (10,)
        assert (estimate.low_ms < estimate.ms).all()
        assert (estimate.ms < estimate.high_ms).all()
        np.testing.assert_allclose(estimate.at(0.95), estimate.high_ms)
        assert (estimate.at(0.99) >= estimate.high_ms).all()
        assert (estimate.mean_ms > estimate.low_ms).all()


def test_another_quantile_and_interval_may_be_asked_for(snapshot: Snapshot) -> None:
    predictor = Predictor(quantile=0.9, interval=0.5)
    predictor.publish(snapshot)
    teach(predictor, 500)
    asked = ask(predictor)

    by_default, other = predictor.predict(*asked).ttft, predictor.predict(*asked, quantile=0.5, interval=0.98).ttft

    assert by_default is not None
    assert other is not None
    assert (by_default.ms > other.ms).all()
    assert (by_default.low_ms > other.low_ms).all()
    np.testing.assert_allclose(other.high_ms, other.at(0.99))


@pytest.mark.parametrize("bad", [{"quantile": 0.0}, {"quantile": 1.0}, {"interval": 1.5}])
def test_a_quantile_that_is_none_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Predictor(**bad)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Predictor().predict(new_features(1), np.zeros(1, dtype=int), **bad)


@pytest.mark.parametrize(
    "shape", [(3, COUNT), (4, COUNT - 1), (COUNT, 4)], ids=["too few rows", "too few columns", "transposed"]
)
def test_features_that_do_not_fit_are_refused(snapshot: Snapshot, shape: tuple[int, int]) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)

    with pytest.raises(ValueError, match="expected features of shape"):
        predictor.predict(np.zeros(shape), np.zeros(4, dtype=int))


def test_no_candidates_no_numbers(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)

    prediction = predictor.predict(new_features(0), np.zeros(0, dtype=int))

    assert prediction.ttft is not None
    assert prediction.ttft.high_ms.shape == (0,)


def test_what_happens_moves_the_next_prediction(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)
    teach(predictor, 400)
    asked = ask(predictor)
    before = predictor.predict(*asked).ttft
    assert before is not None

    teach(predictor, 400, factor=2.0)

    after = predictor.predict(*asked).ttft
    assert after is not None
    np.testing.assert_allclose(after.ms / before.ms, 2.0, rtol=0.15)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e12])
def test_a_latency_that_cannot_be_is_left_out_and_counted(snapshot: Snapshot, value: float) -> None:
    rows: list[Floats] = []
    predictor = Predictor(on_sample=rows.append)
    predictor.publish(snapshot)
    decision = predictor.predict(*ask(predictor)).keep(0)

    assert not predictor.observe(decision, ttft_ms=value)

    assert predictor.refused == 1
    assert rows == []
    assert predictor.status()["ttft"].observations == 0


def test_of_two_latencies_the_possible_one_counts(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)

    assert predictor.observe(predictor.predict(*ask(predictor)).keep(0), ttft_ms=-1.0, tpot_ms=9.0)

    assert (predictor.refused, predictor.status()["tpot"].observations) == (1, 1)


def test_a_request_given_up_early_says_nothing_and_late_says_it_is_slow(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)
    decision = predictor.predict(*ask(predictor)).keep(0)

    predictor.observe(decision, ttft_ms=decision.ttft_ms * 0.1, is_censored=True)
    early = predictor.status()["ttft"].observations
    predictor.observe(decision, ttft_ms=decision.ttft_ms * 5, is_censored=True)

    assert (early, predictor.status()["ttft"].observations) == (0, 1)


def test_a_decision_keeps_what_was_said_then(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)
    features, endpoints = ask(predictor)
    prediction = predictor.predict(features, endpoints)
    assert prediction.ttft is not None

    decision = prediction.keep(1)
    was = prediction.ttft.ms[1]
    features[:] = 0

    assert decision.ttft_ms == was
    assert decision.features.any()


def test_a_decision_made_with_an_older_model_is_judged_by_the_new_one(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(made(1))
    decision = predictor.predict(*ask(predictor)).keep(0)
    predictor.publish(made(0, versions={"ttft": 2, "tpot": 2}))
    again = predictor.predict(*ask(predictor)).keep(0)

    predictor.observe(decision, ttft_ms=again.base_ms["ttft"] * 1.5)

    state = predictor.snapshot()
    assert state is not None
    np.testing.assert_allclose(state.targets["ttft"].calibration.scores, [np.log(1.5)])


def test_publishing_one_target_keeps_what_was_learnt_of_the_other(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(made(0))
    teach(predictor, 60)

    predictor.publish(made(0, versions={"ttft": 2, "tpot": 1}))

    status = predictor.status()
    assert (status["ttft"].observations, status["tpot"].observations) == (0, 60)


def test_one_target_may_be_trained_alone(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(made(0, versions={"ttft": 1}))
    prediction = predictor.predict(*ask(predictor))

    decision = prediction.keep(0)

    assert prediction.tpot is None
    assert np.isnan(decision.tpot_ms)
    assert predictor.observe(decision, tpot_ms=9.0)


def test_an_endpoint_that_comes_back_is_another_one() -> None:
    predictor = Predictor()
    first = predictor.endpoint("a")
    same = predictor.endpoint("a")

    predictor.forget("a")

    assert same == first != predictor.endpoint("a")


def test_endpoints_that_come_and_go_for_ever_need_no_more_numbers(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(made(0))
    numbers = []
    for i in range(4000):
        numbers.append(predictor.endpoint(f"p{i}"))
        if i >= 10:
            predictor.forget(f"p{i - 10}")

    assert max(numbers) < 1100
    assert all(len(set(numbers[i : i + 1000])) == min(1000, 4000 - i) for i in range(0, 4000, 500))


def test_a_restarted_process_goes_on_where_the_last_one_was(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)
    teach(predictor, 400, factor=1.7)
    kept = predictor.snapshot()
    assert kept is not None

    restarted = Predictor()
    restarted.restore(kept)

    before, after = (p.predict(*ask(p)).ttft for p in (predictor, restarted))
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after.ms, before.ms, rtol=0.05)
    assert restarted.endpoint("new") not in {predictor.endpoint(f"s{e}") for e in range(1, 9)}
    with pytest.raises(ValueError, match="knows endpoints already"):
        predictor.restore(kept)


def test_status_says_how_it_goes(snapshot: Snapshot) -> None:
    predictor = Predictor(clock=lambda: 80.0)
    predictor.publish(snapshot)
    teach(predictor, 300)
    teach(predictor, 400, seed=10)

    ttft, judged = predictor.status()["ttft"], predictor.judged()["ttft"]

    assert (ttft.version, ttft.samples, ttft.age_s, ttft.observations) == (1, 2000, 30.0, 700)
    assert judged.count == 500
    assert 0.05 < judged.median_error < 0.15
    assert 0.6 < judged.coverage <= 1


def test_far_from_what_was_seen_is_said(snapshot: Snapshot) -> None:
    predictor = Predictor()
    predictor.publish(snapshot)
    features, endpoints = ask(predictor)
    features[1, COLUMN["num_request_running"]] = 5000

    outside = predictor.predict(features, endpoints).outside

    assert outside[1] > 1
    assert outside[0] < 0.5
