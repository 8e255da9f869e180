"""Routing policies on simulated servers and a piece of a recorded trace: the claims of docs/routing.md in small."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.bench.routing import __main__ as command
from tests.bench.routing.arrivals import arrivals, read_trace
from tests.bench.routing.experiments import POLICIES
from tests.bench.routing.fleet import Server, Timeline
from tests.bench.routing.report import Result, against, interval, table
from tests.bench.routing.simulation import Setting, simulate

EXCERPT: Final = Path(__file__).parents[2] / "fixtures" / "traces" / "mooncake-conversation-400.jsonl"
# Four servers get as much each as eight do near saturation.
NEAR: Final = 1.9
FOUR: Final = (1.0,) * 4


@cache
def numbers(policy: str, setting: Setting, *, count: int = 400, speedup: float = NEAR) -> dict[str, float]:
    requests = arrivals(read_trace(EXCERPT, count=count), speedup=speedup, output_share=0.1, seed=setting.seed)
    return simulate(POLICIES[policy], requests, setting).numbers


def test_near_saturation_expected_cost_is_ahead_of_the_others() -> None:
    setting = Setting(speeds=FOUR)
    ours, sticky = numbers("recommended", setting), numbers("sticky-until-saturated", setting)

    assert ours["ttft_mean"] < 0.92 * sticky["ttft_mean"]
    assert ours["ttft_p90"] < 0.97 * sticky["ttft_p90"]
    assert ours["e2e_p90"] <= sticky["e2e_p90"]
    assert ours["ttft_mean"] < 0.7 * numbers("round robin", setting)["ttft_mean"]


def test_a_server_at_half_speed_gets_less() -> None:
    setting = Setting(speeds=(0.5, 1.0, 1.0, 1.0))
    ours, sticky = (numbers(p, setting, speedup=1.6) for p in ("recommended", "sticky-until-saturated"))

    assert ours["ttft_p90"] < sticky["ttft_p90"]


@pytest.mark.parametrize("bodies", ["sampled", "none"])
def test_without_all_response_bodies_it_is_not_worse_than_sticky(bodies: str) -> None:
    setting = Setting(speeds=FOUR, bodies="sampled" if bodies == "sampled" else "none")

    assert numbers("recommended", setting)["ttft_p90"] < numbers("sticky-until-saturated", setting)["ttft_p90"]


def test_equal_arguments_give_equal_numbers() -> None:
    setting = Setting(speeds=FOUR)
    again = numbers.__wrapped__("recommended", setting, count=60)

    assert again == numbers.__wrapped__("recommended", setting, count=60)


def test_the_trace_is_sped_up_and_spread_within_its_steps() -> None:
    lines = read_trace(EXCERPT, count=50)
    slow, fast = (arrivals(lines, speedup=s, output_share=0.5, seed=1) for s in (1.0, 2.0))

    assert [a.at_s / 2 for a in slow] == pytest.approx([a.at_s for a in fast])
    assert len({a.at_s for a in slow}) == 50
    assert sorted(a.output_tokens for a in slow) == sorted(max(1, round(line.output_length / 2)) for line in lines)


def test_prompts_share_what_their_blocks_share() -> None:
    first, second = arrivals(read_trace(EXCERPT, count=2), speedup=1.0, output_share=1.0, seed=0)
    shared = sum(a == b for a, b in zip(first.hash_ids, second.hash_ids, strict=False))

    assert shared
    assert first.prompt()[: 2048 * shared] == second.prompt()[: 2048 * shared]
    assert first.prompt()[: 2048 * (shared + 1)] != second.prompt()[: 2048 * (shared + 1)]
    assert len(first.prompt()) == 4 * first.prompt_tokens


def test_a_server_answers_on_the_timeline_as_its_costs_say() -> None:
    timeline, told = Timeline(), list[tuple[str, float]]()
    server = Server(timeline)
    server.submit(
        b"x" * 4 * 2048,
        3,
        on_first=lambda: told.append(("first", timeline.now_s)),
        on_end=lambda: told.append(("end", timeline.now_s)),
    )
    while timeline.step():
        pass

    first_s = (6 + 2048 * 0.05) / 1000
    assert told == [("first", pytest.approx(first_s)), ("end", pytest.approx(first_s + 2 * 0.00615))]


def test_differences_are_taken_between_runs_of_one_seed() -> None:
    results = [Result("e", p, s, {"x": v}) for p, s, v in [("a", 0, 10), ("b", 0, 5), ("a", 1, 100), ("b", 1, 50)]]

    assert against(results, "x", baseline="a")["b"] == (-0.5, 0.0)
    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.30 / 3**0.5))


def test_the_command_shows_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--trace", str(EXCERPT), "--only", "none", "--seeds", "1", "--requests", "30", "--jobs", "1"]

    assert command.main([*options, "--json", str(tmp_path / "runs.json")]) == 0
    out = capsys.readouterr().out
    assert "**near saturation, no response bodies**" in out
    assert "| recommended |" in out
    assert (tmp_path / "runs.json").read_bytes().startswith(b'[{"experiment":"none"')


def test_the_command_says_what_it_lacks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["--trace", str(tmp_path / "no.jsonl")]) == 2
    assert command.main(["--trace", str(EXCERPT), "--only", "nope"]) == 2
    assert "no such file" in (err := capsys.readouterr().err)
    assert "there are light, near" in err


def test_a_table_has_a_row_a_policy() -> None:
    one = {"ttft_p50": 1, "ttft_p90": 2, "ttft_mean": 1, "e2e_p90": 4, "tpot": 5, "cached": 0.25}
    results = [Result("e", "sticky", 0, one), Result("e", "ours", 0, one | {"ttft_p90": 1})]

    assert "| ours | 1 | 1 | -50.0 ± 0.0 % | 4 | +0.0 ± 0.0 % | 5.0 | 0.250 |" in table("t", results, baseline="sticky")
