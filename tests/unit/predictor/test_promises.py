"""What predictions promise, over a pool that is served, learnt from and changed. Synthetic latencies: the truth is known."""

from __future__ import annotations

import pytest

from tests.support.predictor_replay import Pool

SEEDS = range(2)


@pytest.mark.parametrize("seed", range(5))
def test_ninety_percent_intervals_hold_88_to_92_percent(seed: int) -> None:
    pool = Pool(seed)
    pool.serve(3000)

    seen = pool.serve(8000)

    for coverage in seen.coverage():
        assert 0.88 <= coverage <= 0.92
    assert max(seen.median_errors()) < 0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_when_one_endpoint_turns_slower_intervals_hold_again_within_some_dozen_requests(seed: int) -> None:
    pool = Pool(seed)
    pool.serve(4000)
    pool.factors[3] = 1.35

    seen = pool.serve(2000)

    assert min(seen.coverage()) >= 0.87
    assert min(seen.coverage(endpoint=3)) >= 0.80  # about 250 requests, the first ones included
    assert min(seen.coverage(500, endpoint=3)) >= 0.84  # from its 60th request on


@pytest.mark.parametrize("seed", SEEDS)
def test_when_all_turn_slower_intervals_hold_again_within_some_hundred_requests(seed: int) -> None:
    pool = Pool(seed)
    pool.serve(4000)
    pool.factors[:] = 1.35

    seen = pool.serve(2000)

    assert min(seen.coverage()) >= 0.82
    assert min(seen.coverage(600)) >= 0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_a_load_never_seen_is_not_far_off(seed: int) -> None:
    pool = Pool(seed)
    pool.serve(4000, load=0.6)
    published = pool.published

    seen = pool.serve(100, load=2.0)

    assert published >= 1
    assert max(seen.median_errors()) < 0.2


def test_predictions_begin_within_the_first_hundreds_of_requests() -> None:
    pool = Pool(0)

    seen = pool.serve(1000)

    assert len(seen.within) > 600
    assert max(seen.median_errors()) < 0.2
