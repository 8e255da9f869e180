"""When to fit, and what is published: only what beats the model in use on the newest samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from epp_predictor import Predictor, Snapshot
from epp_predictor.features import COLUMN, Floats
from epp_predictor.fitting import Recipe
from epp_predictor.samples import CENSORED, ENDPOINT, FIRST_FEATURE, OBSERVED, TIME, sound
from epp_predictor.trainer import Trainer, TrainerSettings, Training
from tests.support.latency_world import Requests, draw

SETTINGS = TrainerSettings(recipe=Recipe(trees=20))
TTFT, TPOT = OBSERVED["ttft"], OBSERVED["tpot"]


def as_rows(requests: Requests, *, start_s: float = 0.0, step_s: float = 0.01) -> Floats:
    rows = requests.samples()
    rows[:, TIME] = start_s + step_s * np.arange(len(rows))
    return rows


def drawn(count: int, seed: int, *, start_s: float = 0.0, factors: Floats | None = None) -> Floats:
    return as_rows(draw(count, np.random.default_rng(seed), factors=factors), start_s=start_s)


def results(training: Training) -> dict[str, str]:
    return {outcome.target: outcome.result for outcome in training.outcomes}


def trained() -> tuple[Trainer, Snapshot]:
    trainer = Trainer(SETTINGS)
    trainer.add(drawn(3000, 0), 30.0)
    snapshot = trainer.train(30.0).snapshot
    assert snapshot is not None
    return trainer, snapshot


# --- when ----------------------------------------------------------------------------------------------------------------


def test_the_first_fit_waits_for_samples() -> None:
    trainer = Trainer(SETTINGS)
    trainer.add(drawn(99, 0), 1.0)
    before = trainer.due(1.0)

    trainer.add(drawn(1, 1), 1.0)

    assert (before, trainer.due(1.0)) == ("", "interval")


@pytest.mark.parametrize("target", ["ttft", "tpot"])
def test_samples_count_for_the_target_that_they_are_of(target: str) -> None:
    """Half of the answers come in one piece: their tokens have no pace, and of the others the first token was missed."""
    trainer, samples = Trainer(SETTINGS), drawn(198, 0)
    lacks = np.arange(198) % 2 == 0
    samples[lacks, TTFT], samples[~lacks, TPOT] = np.nan, np.nan
    trainer.add(samples, 2.0)
    before = trainer.due(2.0)

    more = drawn(1, 1, start_s=2.0)
    more[:, OBSERVED["tpot" if target == "ttft" else "ttft"]] = np.nan
    trainer.add(more, 2.0)

    assert (before, trainer.due(2.0)) == ("", "interval")
    assert results(trainer.train(2.0)).keys() == {target}


def test_requests_that_were_given_up_are_no_reason_to_fit() -> None:
    trainer, samples = Trainer(SETTINGS), drawn(500, 0)
    samples[:, CENSORED] = 1
    trainer.add(samples, 5.0)

    assert trainer.due(5.0) == ""


def test_without_new_samples_there_is_no_second_fit() -> None:
    trainer, _ = trained()

    assert trainer.due(10_000.0) == ""


def test_with_new_samples_it_is_due_after_the_interval() -> None:
    trainer, _ = trained()
    trainer.add(drawn(60, 1, start_s=31.0), 32.0)

    assert [trainer.due(s) for s in (32.0, 39.9, 40.0)] == ["", "", "interval"]


def test_drift_is_a_reason_to_fit_earlier() -> None:
    trainer, _ = trained()
    slow = np.full(9, 1.6)
    trainer.add(drawn(150, 2, start_s=31.0, factors=slow), 33.0)

    assert trainer.due(31.0) == ""
    assert trainer.due(33.0) in ("ttft shift", "tpot shift")


def test_no_drift_in_samples_like_those_before() -> None:
    trainer, _ = trained()
    trainer.add(drawn(600, 3, start_s=31.0), 35.0)

    assert trainer.due(35.0) == ""


# --- what ----------------------------------------------------------------------------------------------------------------


def test_a_first_model_beats_a_constant_and_is_published() -> None:
    trainer = Trainer(SETTINGS)
    trainer.add(drawn(3000, 0), 30.0)

    training = trainer.train(30.0)

    assert results(training) == {"ttft": "published", "tpot": "published"}
    assert training.snapshot is not None
    assert training.snapshot.version == 2
    ttft = training.outcomes[0]
    assert ttft.error is not None
    assert ttft.error < 0.2
    assert ttft.error_in_use is None


def test_its_intervals_hold_from_the_first_request_on() -> None:
    _, snapshot = trained()
    predictor = Predictor()
    predictor.publish(snapshot)
    asked = draw(4000, np.random.default_rng(7))

    prediction = predictor.predict(asked.features, asked.endpoints)

    for estimate, values in ((prediction.ttft, asked.ttft_ms), (prediction.tpot, asked.tpot_ms)):
        assert estimate is not None
        within = ((values >= estimate.low_ms) & (values <= estimate.high_ms)).mean()
        assert 0.86 < within < 0.95


def test_where_a_constant_is_right_a_model_that_says_the_same_is_published() -> None:
    """TPOT of an idle pool: nothing explains it, and nothing has to."""
    trainer = Trainer(SETTINGS)
    rows = drawn(1500, 0)
    rows[:, TPOT] = 11.0 * np.exp(np.random.default_rng(0).normal(0, 0.03, 1500))
    trainer.add(rows, 15.0)

    assert results(trainer.train(15.0))["tpot"] == "published"


@pytest.mark.parametrize("slow", [1.0, 8.0])
def test_a_model_that_is_a_little_worse_than_a_constant_is_published_all_the_same(slow: float) -> None:
    """Or a pool whose tokens take nearly always the same, on each endpoint its own, would never know how long they take."""
    trainer = Trainer(SETTINGS)
    rows = drawn(400, 1)
    noise = np.exp(np.random.default_rng(1).normal(0, 0.005, 400))
    rows[:, TPOT] = 11.0 * noise * np.where(rows[:, ENDPOINT] == 3, slow, 1.0)
    trainer.add(rows, 15.0)

    assert results(trainer.train(15.0))["tpot"] == "published"


def test_targets_are_learnt_apart() -> None:
    trainer = Trainer(SETTINGS)
    rows = drawn(1000, 0)
    rows[:, TPOT] = np.nan
    trainer.add(rows, 10.0)

    training = trainer.train(10.0)

    assert results(training) == {"ttft": "published"}
    assert training.snapshot is not None
    assert list(training.snapshot.targets) == ["ttft"]


def test_after_a_change_the_new_model_is_better_and_replaces_the_old() -> None:
    trainer, snapshot = trained()
    changed = drawn(3000, 4, start_s=40.0)
    changed[:, TTFT] += 0.2 * changed[:, FIRST_FEATURE + COLUMN["input_token_length"]]
    trainer.add(changed, 80.0)

    training = trainer.train(80.0)

    assert results(training)["ttft"] == "published"
    assert training.snapshot is not None
    assert training.snapshot.targets["ttft"].version == snapshot.targets["ttft"].version + 1


def test_a_restored_model_has_to_be_beaten_too() -> None:
    _, snapshot = trained()
    trainer = Trainer(SETTINGS, in_use=snapshot)
    few = drawn(150, 5, start_s=40.0)
    trainer.add(few, 45.0)

    assert set(results(trainer.train(45.0)).values()) == {"rejected"}


@pytest.mark.parametrize("avoided_for", [0, 1500])
def test_one_slow_endpoint_is_known_from_its_first_prediction(avoided_for: int) -> None:
    """Though because it is slow the newest requests may all have gone elsewhere."""
    factors = np.ones(9)
    factors[3] = 2.5
    trainer = Trainer(SETTINGS)
    rows = drawn(3000, 6, factors=factors)
    avoided = rows[:, ENDPOINT] != 3
    avoided[: 3000 - avoided_for] = True
    trainer.add(rows[avoided], 30.0)
    predictor = Predictor()
    snapshot = trainer.train(30.0).snapshot
    assert snapshot is not None
    predictor.publish(snapshot)
    same = np.repeat(draw(1, np.random.default_rng(8)).features, 2, axis=0)

    ttft = predictor.predict(same, np.array([1, 3])).ttft

    assert ttft is not None
    assert ttft.ms[1] / ttft.ms[0] == pytest.approx(2.5, rel=0.2)


def test_a_slow_endpoint_is_known_to_the_first_model_after_a_restart() -> None:
    """Nothing is sent to it, because it is slow: no sample of this process shows that."""
    factors = np.ones(9)
    factors[3] = 8.0
    before = Trainer(SETTINGS)
    before.add(drawn(3000, 6, factors=factors), 30.0)
    saved = before.train(30.0).snapshot
    assert saved is not None
    now_s = 40.0
    predictor = Predictor(clock=lambda: now_s)
    predictor.restore(saved)
    trainer = Trainer(SETTINGS, in_use=saved)
    rows = drawn(3000, 7, start_s=40.0, factors=factors)
    rows = rows[rows[:, ENDPOINT] != 3]
    rows[:, TTFT] += 0.2 * rows[:, FIRST_FEATURE + COLUMN["input_token_length"]]
    trainer.add(rows, 80.0)
    first = trainer.train(80.0).snapshot
    assert first is not None
    assert first.targets["ttft"].version == saved.targets["ttft"].version + 1
    same = np.repeat(draw(1, np.random.default_rng(8)).features, 2, axis=0)

    def times_as_slow() -> float:
        estimate = predictor.predict(same, np.array([1, 3])).ttft
        assert estimate is not None
        return float(estimate.ms[1] / estimate.ms[0])

    predictor.publish(first)
    assert times_as_slow() == pytest.approx(8, rel=0.25)

    # Half an hour later nothing that was seen counts any more, here as without a restart.
    now_s += 2000.0
    much_later = drawn(3000, 9, start_s=2000.0, factors=factors)
    trainer.add(much_later[much_later[:, ENDPOINT] != 3], 2040.0)
    later = trainer.train(2040.0).snapshot
    assert later is not None
    predictor.publish(later)
    assert times_as_slow() == pytest.approx(1, rel=0.3)


# --- poison --------------------------------------------------------------------------------------------------------------


def not_numbers(rows: Floats) -> None:
    rows[:, [TTFT, TPOT]] = np.nan


def negative(rows: Floats) -> None:
    rows[:, [TTFT, TPOT]] *= -1


def huge(rows: Floats) -> None:
    rows[:, [TTFT, TPOT]] = 1e300


def constant(rows: Floats) -> None:
    rows[:, [TTFT, TPOT]] = 10.0


def constant_features(rows: Floats) -> None:
    rows[:, FIRST_FEATURE:] = rows[0, FIRST_FEATURE:]


def features_that_are_not_numbers(rows: Floats) -> None:
    rows[:, FIRST_FEATURE:] = np.nan


def negative_features(rows: Floats) -> None:
    rows[:, FIRST_FEATURE:] = -1.0


def huge_features(rows: Floats) -> None:
    rows[:, FIRST_FEATURE:] *= 1e200


def infinite(rows: Floats) -> None:
    rows[:, TTFT:] = np.inf


def no_such_endpoint(rows: Floats) -> None:
    rows[:, ENDPOINT] = 1e18


def mixed_up(rows: Floats) -> None:
    chance = np.random.default_rng(99)
    rows[:, [TTFT, TPOT]] = np.exp(chance.uniform(0, 12, (len(rows), 2)))


POISONS = (
    not_numbers,
    negative,
    huge,
    constant,
    constant_features,
    features_that_are_not_numbers,
    negative_features,
    huge_features,
    infinite,
    no_such_endpoint,
    mixed_up,
)


@pytest.mark.parametrize("poison", POISONS, ids=lambda p: p.__name__)
def test_poison_keeps_the_model_in_use(poison: Callable[[Floats], None]) -> None:
    trainer, _ = trained()
    for round_number in range(3):
        start_s = 40.0 + 30 * round_number
        rows = drawn(1500, 20 + round_number, start_s=start_s)
        with np.errstate(over="ignore"):
            poison(rows)
        trainer.add(rows, start_s + 15)

        training = trainer.train(start_s + 16)

        assert "published" not in results(training).values()
        assert training.snapshot is None


@pytest.mark.parametrize("poison", POISONS, ids=lambda p: p.__name__)
def test_poison_alone_never_makes_a_first_model(poison: Callable[[Floats], None]) -> None:
    trainer = Trainer(SETTINGS)
    rows = drawn(1500, 30)
    with np.errstate(over="ignore"):
        poison(rows)
    trainer.add(rows, 15.0)

    assert trainer.train(15.0).snapshot is None


def test_a_tenth_of_poison_does_not_spoil_the_rest() -> None:
    trainer = Trainer(SETTINGS)
    rows = drawn(3000, 0)
    for number, poison in enumerate(POISONS):
        with np.errstate(over="ignore"):
            spoilt = rows[number * 27 : number * 27 + 27].copy()
            poison(spoilt)
        rows[number * 27 : number * 27 + 27] = spoilt
    trainer.add(rows[np.random.default_rng(0).permutation(3000)], 30.0)
    predictor = Predictor()
    snapshot = trainer.train(30.0).snapshot
    assert snapshot is not None
    predictor.publish(snapshot)
    asked = draw(3000, np.random.default_rng(1))

    ttft = predictor.predict(asked.features, asked.endpoints).ttft

    assert ttft is not None
    assert np.median(np.abs(ttft.ms / asked.true_ttft_ms - 1)) < 0.12


def test_refused_rows_are_counted() -> None:
    trainer = Trainer(SETTINGS)
    rows = drawn(10, 0)
    rows[:4, TTFT:] = np.nan

    assert (trainer.add(rows, 1.0), trainer.refused, trainer.samples) == (6, 4, 6)


def test_a_row_with_one_sound_latency_is_sound() -> None:
    rows = drawn(2, 0)
    rows[0, TTFT] = -1
    rows[1, [TTFT, TPOT]] = -1

    assert sound(rows).tolist() == [True, False]


def test_constant_latencies_say_why_they_are_refused() -> None:
    trainer = Trainer(SETTINGS)
    rows = drawn(1000, 0)
    constant(rows)
    trainer.add(rows, 10.0)

    outcome = trainer.train(10.0).outcomes[0]

    assert (outcome.result, outcome.text) == ("refused", "900 of 900 samples have exactly the same latency")


# --- the rest ------------------------------------------------------------------------------------------------------------


def test_requests_given_up_count_only_when_they_were_late() -> None:
    trainer, _ = trained()
    rows = drawn(400, 40, start_s=40.0)
    rows[:, CENSORED] = 1
    rows[:200, TTFT], rows[200:, TTFT] = 0.1, 60_000.0
    trainer.add(rows, 45.0)

    usable = trainer._usable("ttft")

    assert (usable[:, CENSORED] == 1).sum() == 200
    assert (usable[usable[:, CENSORED] == 1, TTFT] == 60_000).all()


def test_old_samples_are_dropped() -> None:
    trainer = Trainer(SETTINGS)
    trainer.add(drawn(500, 0), 5.0)

    trainer.train(5.0 + SETTINGS.max_age_s)

    assert trainer.samples < 500


def test_memory_is_bounded() -> None:
    trainer = Trainer(TrainerSettings(capacity=1000, newest=100, per_stratum=2))
    for number in range(10):
        trainer.add(drawn(400, number, start_s=4.0 * number), 4.0 * number)

    assert trainer.samples <= 1400


def test_flushing_forgets_samples_and_keeps_models() -> None:
    trainer, _ = trained()
    before = trainer.samples

    assert trainer.flush() == before
    assert trainer.samples == 0
    trainer.add(drawn(200, 41, start_s=40.0), 45.0)
    assert set(results(trainer.train(45.0)).values()) <= {"rejected", "published"}
