"""What the demo prints, without a terminal: plain lines that say what the numbers say."""

from __future__ import annotations

import io

from rich.console import Console

from epp.demo.client import Answer
from epp.demo.picks import Pick
from epp.demo.screen import Screen
from epp.demo.summary import summarize

ANSWER = Answer(
    "a", "chat 3, turn 2", True, 0.0, 200, ttft_ms=41.6, total_ms=55.2, prompt_tokens=1174, cached_tokens=1112
)
PICK = Pick("a", endpoint="127.0.0.1:1", queue=0, in_flight=2, prefix_blocks=24, prefix_total=26)


def screen() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, width=100, highlight=False)), out


def test_a_pick_is_one_line() -> None:
    shown, out = screen()
    shown.pick(ANSWER, PICK, "s3")

    assert out.getvalue().split() == [
        *("chat", "3,", "turn", "2", "stream", "s3", "24/26", "92%", "0", "2", "42", "ms", "55", "ms", "1112/1174")
    ]
    assert out.getvalue().count("\n") == 1


def test_a_request_that_nobody_picked_for_says_so_and_why_it_failed() -> None:
    shown, out = screen()
    shown.pick(Answer("a", "one-off 1", False, 0.0, 503, error="503 no endpoint"), Pick("a"), "")

    assert out.getvalue().split()[3] == "none"
    assert out.getvalue().endswith("503 no endpoint\n")


def test_a_step_says_what_came_of_it() -> None:
    shown, out = screen()
    with shown.step("two Envoys") as step:
        step.done("two Envoys listen")

    assert "✓ two Envoys listen  0.0 s" in out.getvalue()


def test_commands_are_never_wrapped() -> None:
    shown, out = screen()
    shown.commands({"its metrics": "curl " + "x" * 300})

    assert out.getvalue().splitlines() == ["# its metrics", "curl " + "x" * 300]


def test_the_comparison_shows_times_caches_balance_and_failures() -> None:
    shown, out = screen()
    shown.comparison(summarize([ANSWER], {"s1": 1, "s2": 0}), summarize([ANSWER], {"s1": 0, "s2": 1}))

    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["first", "token", "of", "a", "streamed", "answer,", "mean", "42", "ms", "42", "ms", "+0%"] in rows
    assert ["prompt", "tokens", "from", "a", "cache", "95%", "95%"] in rows
    assert ["requests", "to", "s1", "1", "0"] in rows
    assert ["failed", "requests", "0", "0"] in rows
