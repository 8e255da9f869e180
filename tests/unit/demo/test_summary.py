"""The numbers under the demo's two runs, and the sentence made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.demo.client import Answer
from epp.demo.summary import Summary, change, outcome, percentile, summarize


def streamed(ttft_ms: float, *, cached: int = 0, error: str = "") -> Answer:
    return Answer("id", "chat", True, 0.0, ttft_ms=ttft_ms, prompt_tokens=100, cached_tokens=cached, error=error)


def whole(total_ms: float) -> Answer:
    return Answer("id", "one-off", False, 0.0, total_ms=total_ms, prompt_tokens=100)


def run_of(ttft_ms: float, *, cached: int = 0, errors: int = 0) -> Summary:
    answers = [streamed(ttft_ms, cached=cached), *[streamed(0, error="503") for _ in range(errors)]]
    return summarize(answers, {"s1": 3, "s2": 1})


@given(
    st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1),
    st.floats(0, 1, allow_nan=False),
)
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(np.quantile(values, share))


def test_first_tokens_are_those_of_streamed_answers_and_whole_times_of_the_others() -> None:
    summary = summarize([streamed(10), streamed(30), whole(200)], {})

    assert (summary.ttft_mean_ms, summary.ttft_p50_ms, summary.whole_mean_ms) == (20, 20, 200)


def test_a_failed_request_counts_as_an_error_and_nowhere_else() -> None:
    summary = summarize([streamed(10, cached=50), streamed(9999, cached=100, error="503")], {})

    assert (summary.requests, summary.errors, summary.ttft_mean_ms, summary.cached_share) == (2, 1, 10, 0.5)


def test_a_run_without_answers_has_no_times() -> None:
    summary = summarize([], {"s1": 0})

    assert (summary.ttft_mean_ms, summary.ttft_p90_ms, summary.whole_mean_ms) == (None, None, None)
    assert (summary.cached_share, summary.busiest_share) == (0, 0)


def test_a_change_is_a_share_of_the_base() -> None:
    assert change(50, 200) == -0.75
    assert change(None, 200) is None
    assert change(50, 0) is None


def test_the_sentence_says_that_the_epp_was_faster() -> None:
    assert outcome(run_of(50, cached=80), run_of(100, cached=20)) == (
        "With the EPP the first token came 50% sooner than with round robin (50 ms on average against 100 ms); "
        "80% of the prompt tokens came from the servers' caches instead of 20%; "
        "the busiest server got 75% of the requests instead of 75%."
    )


def test_the_sentence_says_that_round_robin_won() -> None:
    assert outcome(run_of(150), run_of(100)).startswith("Round robin won: with the EPP the first token came 50% later")


def test_the_sentence_makes_nothing_of_a_small_difference() -> None:
    assert "about equally fast" in outcome(run_of(97), run_of(100))


def test_the_sentence_tells_of_failed_requests() -> None:
    assert outcome(run_of(50, errors=2), run_of(100)).endswith("2 requests failed, with round robin 0.")


def test_the_sentence_claims_nothing_without_times() -> None:
    assert outcome(summarize([], {}), run_of(100)).startswith("Too few streamed answers")
