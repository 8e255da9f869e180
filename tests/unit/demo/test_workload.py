"""The demo's load: the same every time, ordered, and unlike another load in the first words of every prompt only."""

from __future__ import annotations

from itertools import pairwise

import pytest

from epp.demo.workload import SIZES, Conversation, make_load

LOADS = pytest.mark.parametrize("name", SIZES)


def prompts(load: tuple[Conversation, ...]) -> list[str]:
    """What each conversation opens with."""
    return [conversation.document or conversation.turns[0].text for conversation in load]


@LOADS
def test_a_load_has_as_many_requests_as_its_size_says(name: str) -> None:
    load = make_load(SIZES[name], salt="a")

    assert sum(len(conversation.turns) for conversation in load) == SIZES[name].requests


@LOADS
def test_a_load_is_the_same_every_time(name: str) -> None:
    assert make_load(SIZES[name], salt="a") == make_load(SIZES[name], salt="a")


@LOADS
def test_another_salt_changes_nothing_but_the_first_word_of_every_prompt(name: str) -> None:
    one, other = make_load(SIZES[name], salt="first"), make_load(SIZES[name], salt="other")

    assert all(prompt.startswith("first ") for prompt in prompts(one))
    assert [p.replace("first", "other", 1) for p in prompts(one)] == prompts(other)
    assert [[t.at_s for t in c.turns] for c in one] == [[t.at_s for t in c.turns] for c in other]


@LOADS
def test_turns_come_in_order_and_within_the_time(name: str) -> None:
    for conversation in make_load(SIZES[name], salt="a"):
        times = [turn.at_s for turn in conversation.turns]

        assert all(earlier < later for earlier, later in pairwise(times))
        assert times[0] >= 0
        assert times[-1] <= SIZES[name].span_s


@LOADS
def test_no_two_prompts_begin_alike(name: str) -> None:
    openings = [prompt[:60] for prompt in prompts(make_load(SIZES[name], salt="a"))]

    assert len(set(openings)) == len(openings)


@LOADS
def test_answers_are_streamed_and_not(name: str) -> None:
    streamed = {turn.streamed for conversation in make_load(SIZES[name], salt="a") for turn in conversation.turns}

    assert streamed == {True, False}
