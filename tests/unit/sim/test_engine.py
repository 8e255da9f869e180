"""Steps of the engine: what a step computes, what it costs, and what others see of it."""

from __future__ import annotations

import pytest

from epp.sim.config import SimConfig, StepCost
from epp.sim.engine import Engine
from epp.sim.sequence import Sequence

COST = StepCost(base_ms=10, prefill_ms_per_1k_tokens=1000, decode_ms_per_sequence=2)


class Bench:
    """An engine with a hand-driven clock."""

    def __init__(self, **limits: object) -> None:
        fields = {"cost": COST, "block_size": 4, "blocks": 101, "max_num_batched_tokens": 64, **limits}
        self.config = SimConfig(**fields)  # type: ignore[arg-type]
        self.engine = Engine(self.config)
        self.now_s = 100.0

    def ask(
        self, prompt: bytes, max_tokens: int = 1, *, adapter: str | None = None, salt: str | None = None
    ) -> Sequence:
        sequence = Sequence(
            prompt,
            block_size=self.config.block_size,
            max_tokens=max_tokens,
            arrival_s=self.now_s,
            adapter=adapter,
            cache_salt=salt,
        )
        self.engine.submit(sequence)
        return sequence

    def step(self) -> list[Sequence]:
        self.now_s += self.engine.start_step(self.now_s)
        return self.engine.finish_step(self.now_s)

    def finish(self) -> None:
        while self.engine.has_work:
            self.step()


def prompt(tokens: int, letter: bytes = b"x") -> bytes:
    """A prompt whose blocks all differ from each other and from those of other letters."""
    return b"".join(letter + b"%03d" % number for number in range(tokens))


def test_the_first_token_comes_with_the_end_of_the_prompt_and_then_one_a_step() -> None:
    bench = Bench()
    asked = bench.ask(prompt(8), 3)

    bench.step()
    assert (asked.generated, asked.finish_reason) == (1, None)
    bench.step()
    bench.step()

    assert (asked.generated, asked.finish_reason) == (3, "length")
    assert len(asked.text(0, 3)) == 12


def test_a_step_costs_its_prompt_tokens_and_its_decoding_sequences() -> None:
    bench = Bench()
    bench.ask(prompt(8, b"a"), 5)
    bench.step()
    bench.ask(prompt(20, b"b"), 5)

    assert bench.engine.start_step(bench.now_s) == pytest.approx((10 + 20 * 1 + 1 * 2) / 1000)


def test_speed_divides_and_lora_multiplies_the_cost() -> None:
    cost = StepCost(base_ms=0, prefill_ms_per_1k_tokens=1000, lora_factor=3, speed=2)
    bench = Bench(cost=cost, loras=("a",))
    bench.ask(prompt(20), adapter="a")

    assert bench.engine.start_step(bench.now_s) == pytest.approx(0.030)


def test_a_long_prompt_is_computed_in_chunks_beside_the_decoding_ones() -> None:
    bench = Bench(max_num_batched_tokens=10)
    decoding = bench.ask(prompt(4, b"d"), 50)
    bench.step()
    long = bench.ask(prompt(20, b"l"), 1)

    bench.step()
    assert long.computed == 9  # the tenth token of the budget decodes
    bench.step()
    assert (long.computed, long.generated) == (18, 0)
    bench.step()

    assert long.finish_reason == "length"
    assert decoding.generated == 4


def test_cached_prompt_tokens_are_not_computed_again() -> None:
    bench = Bench()
    bench.ask(prompt(40))
    bench.finish()
    again = bench.ask(prompt(40) + b"tail")

    cost_s = bench.engine.start_step(bench.now_s)

    assert again.cached_tokens == 40
    assert cost_s == pytest.approx((10 + 1) / 1000)
    assert (bench.engine.stats.prefix_queries, bench.engine.stats.prefix_hits) == (81, 40)


def test_the_last_prompt_token_is_always_computed() -> None:
    bench = Bench()
    bench.ask(prompt(40))
    bench.finish()
    again = bench.ask(prompt(40))

    bench.finish()

    assert again.cached_tokens == 36


def test_a_prompt_in_progress_is_shared_as_soon_as_its_blocks_are_computed() -> None:
    bench = Bench()
    first = bench.ask(prompt(41), 10)
    bench.step()
    second = bench.ask(prompt(41), 10)
    bench.step()

    assert second.cached_tokens == 40
    assert second.blocks[:10] == first.blocks[:10]
    assert bench.engine.pool.used == 12


def test_the_next_turn_finds_the_answer_of_the_last_one() -> None:
    bench = Bench()
    first = bench.ask(prompt(10), 11)
    bench.finish()
    second = bench.ask(prompt(10) + first.text(0, 11).encode() + b"more")

    bench.finish()

    assert second.cached_tokens == 20


def test_adapters_and_salts_do_not_share_blocks() -> None:
    bench = Bench(loras=("a",))
    bench.ask(prompt(41))
    bench.finish()
    others = [bench.ask(prompt(41), adapter="a"), bench.ask(prompt(41), salt="s")]

    bench.finish()

    assert [other.cached_tokens for other in others] == [0, 0]


def test_content_that_was_not_used_for_longest_is_evicted() -> None:
    bench = Bench(blocks=17)  # room for two of the prompts
    for letter in (b"a", b"b", b"c"):
        bench.ask(prompt(32, letter))
        bench.finish()
    young = bench.ask(prompt(32, b"c"))
    bench.finish()
    old = bench.ask(prompt(32, b"a"))
    bench.finish()

    assert young.cached_tokens == 28
    assert old.cached_tokens == 0


def test_waiting_requests_are_admitted_in_order() -> None:
    bench = Bench(max_num_seqs=2)
    asked = [bench.ask(prompt(4, letter), 2) for letter in (b"a", b"b", b"c", b"d")]

    bench.step()
    assert [sequence.generated for sequence in asked] == [1, 1, 0, 0]
    bench.step()
    bench.step()

    assert [sequence.generated for sequence in asked] == [2, 2, 1, 1]


def test_a_request_that_finds_no_blocks_holds_up_those_behind_it() -> None:
    bench = Bench(blocks=11)
    bench.ask(prompt(30, b"a"), 2)
    bench.step()
    big, small = bench.ask(prompt(20, b"b")), bench.ask(prompt(1, b"c"))

    bench.step()

    assert (big.generated, small.generated) == (0, 0)


def test_gauges_move_at_the_end_of_a_step_only() -> None:
    bench = Bench(max_num_seqs=1)
    first, second = bench.ask(prompt(40, b"a"), 2), bench.ask(prompt(4, b"b"))
    stats = bench.engine.stats

    duration_s = bench.engine.start_step(bench.now_s)
    assert (stats.gauges.running, stats.gauges.waiting, stats.gauges.kv_usage) == (0, 0, 0.0)
    assert (bench.engine.running, bench.engine.waiting) == (1, 1)
    bench.engine.finish_step(bench.now_s + duration_s)

    assert (stats.gauges.running, stats.gauges.waiting) == (1, 1)
    assert stats.gauges.kv_usage == pytest.approx(10 / 100)
    bench.finish()
    assert (stats.gauges.running, stats.gauges.kv_usage) == (0, 0.0)
    assert first.finish_reason == second.finish_reason == "length"


def test_an_abort_between_steps_frees_the_blocks_at_once() -> None:
    bench = Bench()
    asked = bench.ask(prompt(40), 50)
    bench.step()

    bench.engine.abort(asked, bench.now_s)

    assert bench.engine.pool.used == 0
    assert not bench.engine.has_work
    assert bench.engine.stats.gauges.running == 0


def test_an_abort_during_a_step_takes_effect_at_its_end() -> None:
    bench = Bench()
    asked, waiting = bench.ask(prompt(60, b"a"), 50), bench.ask(prompt(60, b"b"))
    duration_s = bench.engine.start_step(bench.now_s)
    bench.engine.abort(asked, bench.now_s)
    bench.engine.abort(waiting, bench.now_s)
    assert bench.engine.pool.used > 0

    progressed = bench.engine.finish_step(bench.now_s + duration_s)

    assert progressed == []
    assert bench.engine.pool.used == 0
    assert not bench.engine.has_work
    assert bench.engine.stats.finished["abort"] == 0  # as on real vLLM, which does not count it


def test_the_youngest_is_preempted_when_blocks_run_out_and_still_finishes() -> None:
    bench = Bench(blocks=8)
    old, young = bench.ask(prompt(8, b"a"), 14), bench.ask(prompt(8, b"b"), 14)

    bench.finish()

    assert (old.preemptions, young.preemptions) == (0, 1)
    assert (old.generated, young.generated) == (14, 14)
    assert bench.engine.stats.preemptions == 1


def test_an_adapter_too_many_waits_without_holding_up_others() -> None:
    bench = Bench(loras=("a", "b"), max_loras=1)
    first = bench.ask(prompt(4, b"a"), 2, adapter="a")
    second = bench.ask(prompt(4, b"b"), 1, adapter="b")
    plain = bench.ask(prompt(4, b"c"), 1)

    bench.step()
    assert (first.generated, second.generated, plain.generated) == (1, 0, 1)
    assert bench.engine.stats.gauges.deferred == 1
    bench.finish()

    assert second.finish_reason == "length"


def test_adapters_are_published_whether_they_run_or_wait() -> None:
    bench = Bench(loras=("a", "b"), max_loras=1)
    bench.ask(prompt(4, b"a"), 2, adapter="a")
    bench.ask(prompt(4, b"b"), 1, adapter="b")

    bench.step()
    current = max(bench.engine.stats.lora_seen.items(), key=lambda seen: seen[1])
    assert set(current[0]) == {"a", "b"}
    bench.finish()

    latest = max(bench.engine.stats.lora_seen.items(), key=lambda seen: seen[1])
    assert latest[0] == ()


def test_latencies_are_those_of_the_steps() -> None:
    bench = Bench()
    bench.ask(prompt(20), 3)

    bench.finish()
    stats = bench.engine.stats

    assert stats.ttft.total == pytest.approx(0.030)
    assert stats.inter_token.count == 2
    assert stats.inter_token.total == pytest.approx(0.024)
    assert stats.e2e.total == pytest.approx(0.054)
    assert (stats.prompt_tokens, stats.generation_tokens) == (20, 3)


def test_an_embedding_ends_with_its_prompt() -> None:
    bench = Bench()
    asked = bench.ask(prompt(8), 0)

    bench.step()

    assert asked.is_done
    assert asked.generated == 0


def test_a_dead_engine_fails_all_it_had() -> None:
    bench = Bench(max_num_seqs=1)
    asked = [bench.ask(prompt(4, b"a"), 5), bench.ask(prompt(4, b"b"), 5)]
    bench.step()

    assert bench.engine.fail_all() == asked
    assert all(sequence.failed for sequence in asked)
