"""Which samples stay."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epp_predictor.features import COLUMN
from epp_predictor.retention import STRATA, retained, strata_of
from epp_predictor.samples import FIRST_FEATURE, TIME, WIDTH


def rows(times: np.ndarray, **features: np.ndarray) -> np.ndarray:
    made = np.zeros((len(times), WIDTH))
    made[:, TIME] = times
    for name, values in features.items():
        made[:, FIRST_FEATURE + COLUMN[name]] = values
    return made


def test_strata_are_those_of_upstreams_training_server() -> None:
    waiting = rows(np.zeros(7), num_request_waiting=np.array([0, 1, 2, 3, 6, 11, 500]))
    kv = rows(np.zeros(4), kv_cache_percentage=np.array([0.0, 0.049, 0.05, 1.0]))
    prefix = rows(np.zeros(4), prefix_cache_score=np.array([0.0, 0.24, 0.25, 1.0]))

    assert (strata_of(waiting) // 80).tolist() == [0, 1, 1, 2, 3, 4, 4]
    assert (strata_of(kv) // 4).tolist() == [0, 0, 1, 19]
    assert strata_of(prefix).tolist() == [0, 0, 1, 3]
    assert STRATA == 400


def test_a_busy_stratum_keeps_its_newest_and_leaves_the_others_alone() -> None:
    quiet, busy = rows(np.arange(5.0)), rows(np.arange(100.0, 200.0), num_request_waiting=np.full(100, 20.0))
    both = np.concatenate((quiet, busy))

    kept = retained(both, now_s=200.0, max_age_s=1000.0, per_stratum=10, newest=0)

    assert both[kept, TIME].tolist() == [*range(5), *range(190, 200)]


def test_age_ends_every_sample() -> None:
    some = rows(np.array([0.0, 50.0, 99.0]))

    assert retained(some, now_s=100.0, max_age_s=60.0, per_stratum=10, newest=10).tolist() == [False, True, True]


def test_the_newest_stay_whatever_their_stratum() -> None:
    assert retained(rows(np.arange(50.0)), now_s=50.0, max_age_s=99.0, per_stratum=1, newest=20).sum() == 20


def test_nothing_stays_of_nothing() -> None:
    assert retained(rows(np.zeros(0)), now_s=0.0, max_age_s=1.0, per_stratum=1, newest=1).shape == (0,)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 12), st.floats(0, 1)), max_size=60), st.integers(1, 5))
def test_no_stratum_has_more_than_its_share(some: list[tuple[float, int, float]], most: int) -> None:
    times, waiting, kv = (np.array(c, dtype=float) for c in zip(*some, strict=True)) if some else (np.zeros(0),) * 3
    made = rows(times, num_request_waiting=waiting, kv_cache_percentage=kv)

    kept = retained(made, now_s=100.0, max_age_s=1e9, per_stratum=most, newest=0)

    before, after = np.bincount(strata_of(made), minlength=STRATA), np.bincount(strata_of(made[kept]), minlength=STRATA)
    np.testing.assert_array_equal(after, np.minimum(before, most))
