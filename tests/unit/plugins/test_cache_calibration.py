from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.api import PrefixMatch
from epp_plugins.cache_calibration import Action, Advice, Calibration, Calibrations, Cause, Verdict, judge


class Answer(NamedTuple):
    """Tokens."""

    predicted: float
    cached: float
    tolerance: float

    def judged_by(self, calibration: Calibration) -> Advice | None:
        verdict = judge(*self)
        return calibration.observe(verdict, cached=self.cached, nothing=self.cached <= self.tolerance)


RIGHT = Answer(500, 490, 64)
NOTHING = Answer(500, 0, 64)
LITTLE = Answer(500, 40, 64)
HALF = Answer(500, 250, 64)
MORE = Answer(0, 500, 64)
TRIVIAL = Answer(0, 10, 64)


def feed(calibration: Calibration, *answers: Answer) -> list[Advice]:
    found = [answer.judged_by(calibration) for answer in answers]
    return [advice for advice in found if advice is not None]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (RIGHT, Verdict.RIGHT),
        (Answer(500, 564, 64), Verdict.RIGHT),
        (NOTHING, Verdict.OVER),
        (HALF, Verdict.OVER),
        (MORE, Verdict.UNDER),
        (TRIVIAL, Verdict.TRIVIAL),
        (Answer(60, 0, 64), Verdict.TRIVIAL),
        (Answer(100, 40, 64), Verdict.RIGHT),
    ],
)
def test_a_verdict(answer: Answer, verdict: Verdict) -> None:
    assert judge(*answer) is verdict


def test_confidence_is_the_share_of_recent_predictions_that_were_right() -> None:
    calibration = Calibration()
    assert math.isnan(calibration.confidence)
    feed(calibration, *[HALF] * 5, *[TRIVIAL] * 100, *[RIGHT] * 15)
    assert calibration.confidence == 0.75

    feed(calibration, *[RIGHT] * 32)

    assert calibration.confidence == 1


def test_an_engine_that_has_nothing_of_what_it_had_has_restarted() -> None:
    calibration = Calibration()

    assert feed(calibration, *[RIGHT] * 5, NOTHING, NOTHING, LITTLE) == [Advice(Action.PURGE, Cause.RESET, news=True)]
    assert feed(calibration, *[RIGHT] * 5, *[NOTHING] * 3) == [Advice(Action.PURGE, Cause.RESET, news=True)]


def test_a_prediction_that_is_right_in_between_saves_the_rest() -> None:
    assert feed(Calibration(), *[NOTHING, NOTHING, RIGHT] * 4) == []


@pytest.mark.parametrize(("answer", "cause"), [(NOTHING, Cause.OFF), (LITTLE, Cause.MISMATCH)])
def test_where_nothing_is_ever_right_the_cause_is_another_and_told_once(answer: Answer, cause: Cause) -> None:
    calibration = Calibration()

    advice = feed(calibration, *[answer] * 9)

    assert [(a.action, a.cause, a.news) for a in advice] == [
        (Action.PURGE, Cause.RESET, True),
        (Action.PURGE, cause, True),
        (Action.PURGE, cause, False),
    ]
    assert calibration.cause is cause


def test_an_engine_that_keeps_less_than_believed_shrinks_and_grows_again() -> None:
    calibration = Calibration()
    mixed = [RIGHT, NOTHING] * 8

    assert feed(calibration, *mixed, *mixed) == [
        Advice(Action.SHRINK, Cause.SMALLER, news=True),
        Advice(Action.SHRINK, Cause.SMALLER, news=False),
    ]
    calibration.limit = 40
    assert feed(calibration, *[RIGHT] * 64) == [Advice(Action.GROW), Advice(Action.GROW)]
    assert calibration.cause is None
    calibration.limit = None
    assert feed(calibration, *[RIGHT] * 64) == []


def test_a_part_that_is_always_missing_is_a_mismatch() -> None:
    calibration = Calibration()

    assert feed(calibration, *[HALF] * 16) == [Advice(Action.SHRINK, Cause.MISMATCH, news=True)]
    assert not any(advice.news for advice in feed(calibration, *[HALF] * 1000))


def test_more_cached_than_predicted_is_told_and_changes_nothing() -> None:
    calibration = Calibration()

    assert feed(calibration, *[MORE, RIGHT] * 8) == []  # the last answer is a right one: nothing to judge
    assert feed(calibration, MORE) == [Advice(Action.WARN, Cause.UNSEEN, news=True)]


answers = st.builds(
    Answer,
    predicted=st.floats(0, 1000),
    cached=st.integers(0, 1000).map(float),
    tolerance=st.sampled_from([0.0, 16.0, 64.0, 500.0]),
)


@given(st.lists(answers, max_size=200))
def test_whatever_engines_answer_the_numbers_stay_in_their_range(given_answers: list[Answer]) -> None:
    calibration = Calibration()
    for answer in given_answers:
        advice = answer.judged_by(calibration)
        if advice is not None and advice.action is Action.PURGE:
            assert answer.cached <= answer.tolerance
        assert math.isnan(calibration.confidence) or 0 <= calibration.confidence <= 1
    if all(judge(*a) in (Verdict.RIGHT, Verdict.TRIVIAL) for a in given_answers):
        assert calibration.cause is None


def test_confidence_by_row_is_replaced_and_never_changed() -> None:
    calibrations = Calibrations()
    calibrations.fit(4)
    before = calibrations.confidence
    calibrations.observe(2, Verdict.RIGHT, cached=490, nothing=False)
    after = calibrations.confidence
    calibrations.observe(9, Verdict.OVER, cached=250, nothing=False)
    calibrations.drop(2)

    assert np.isnan(before).all()
    assert after[2] == 1
    assert np.nan_to_num(calibrations.confidence, nan=-1).tolist() == [-1] * 9 + [0]
    assert calibrations.of(2) is None


@pytest.mark.parametrize(
    ("engine_counts", "predicted"),
    [
        pytest.param(256, 128, id="as estimated"),
        pytest.param(512, 256, id="shorter tokens"),
        pytest.param(100, 50, id="longer"),
    ],
)
def test_a_prediction_is_scaled_to_the_tokens_that_the_engine_counts(engine_counts: int, predicted: float) -> None:
    match = PrefixMatch(np.array([0.0, 2.0]), 4, 64, prompt_tokens=256)

    assert match.cached_tokens(1, engine_counts) == predicted
    assert match.cached_tokens(0, engine_counts) == 0


def test_a_prediction_is_never_more_than_the_prompt() -> None:
    assert PrefixMatch(np.array([4.0]), 4, 64).cached_tokens(0, 200) == 200
