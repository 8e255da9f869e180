"""Whatever is asked in whatever order: everything ends, no block is lost, and answers do not depend on company."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.sim.config import SimConfig
from epp.sim.engine import Engine
from epp.sim.sequence import Sequence

CONFIG = SimConfig(blocks=13, block_size=4, max_num_seqs=3, max_num_batched_tokens=16, loras=("a", "b"), max_loras=1)


@dataclass(frozen=True)
class Asked:
    prompt: bytes
    max_tokens: int
    adapter: str | None
    steps_before: int
    aborted_after: int | None


ASKED = st.builds(
    Asked,
    prompt=st.text("ab", min_size=1, max_size=80).map(str.encode),
    max_tokens=st.integers(0, 20),
    adapter=st.sampled_from([None, "a", "b"]),
    steps_before=st.integers(0, 3),
    aborted_after=st.none() | st.integers(0, 3),
)


def sequence_of(asked: Asked) -> Sequence:
    return Sequence(asked.prompt, block_size=4, max_tokens=asked.max_tokens, arrival_s=0, adapter=asked.adapter)


def step(engine: Engine, now_s: float) -> float:
    now_s += engine.start_step(now_s)
    engine.finish_step(now_s)
    return now_s


@settings(max_examples=150)
@given(st.lists(ASKED, min_size=1, max_size=12))
def test_everything_ends_and_no_block_is_lost(plan: list[Asked]) -> None:
    engine = Engine(CONFIG)
    now_s = 0.0
    sequences: list[Sequence] = []
    for asked in plan:
        sequence = sequence_of(asked)
        engine.submit(sequence)
        sequences.append(sequence)
        for number in range(asked.steps_before):
            if number == asked.aborted_after:
                engine.abort(sequence, now_s)
            if engine.has_work:
                now_s = step(engine, now_s)
    steps = 0
    while engine.has_work:
        now_s = step(engine, now_s)
        steps += 1
        assert steps < 2000

    assert engine.pool.used == 0
    for asked, sequence in zip(plan, sequences, strict=True):
        assert sequence.aborted or sequence.generated == asked.max_tokens
        assert sequence.text(0, sequence.generated) == alone(asked)[: 4 * sequence.generated]
    assert engine.stats.prefix_hits <= engine.stats.prefix_queries


def alone(asked: Asked) -> str:
    engine = Engine(CONFIG)
    sequence = sequence_of(asked)
    engine.submit(sequence)
    now_s = 0.0
    while engine.has_work:
        now_s = step(engine, now_s)
    return sequence.text(0, sequence.generated)
