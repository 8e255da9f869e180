"""What the time to a first token would be on each server, were a request sent there: the engine's own rules, played forward.

Later requests are left out: they come behind. So is the KV cache's size, which the fleet of the comparison does not fill.
"""

from __future__ import annotations

from epp.sim.tokens import block_hashes, root_hash
from tests.bench.routing.fleet import BLOCK_TOKENS, Server


class _Row:
    """A sequence: prompt tokens that are not computed, tokens that are not generated."""

    __slots__ = ("output", "prompt")

    def __init__(self, prompt: int, output: int) -> None:
        self.prompt = prompt
        self.output = output


def time_to_first_token_s(server: Server, prompt: bytes, now_s: float) -> float:
    """For a request that would come to `server` now."""
    engine, config = server.engine, server.config
    running: list[_Row] = []
    for sequence in engine._running:
        left = sequence.total_tokens - sequence.computed - sequence.scheduled
        done = sequence.generated + (left == 0 and sequence.scheduled > 0)
        if done < sequence.max_tokens:
            running.append(_Row(left if left > 0 and not sequence.generated else 0, sequence.max_tokens - done))
    waiting = [
        _Row(_uncached(server, sequence.hashes, sequence.prompt_tokens), sequence.max_tokens)
        for sequence in engine._waiting
    ]
    tokens = -(-len(prompt) // 4)
    mine = _Row(_uncached(server, block_hashes(prompt, BLOCK_TOKENS, root_hash(None, None)), tokens), 1)
    waiting.append(mine)
    at_s = server.step_ends_s if server.is_busy else now_s
    while mine.prompt:
        budget, prefill, decoding = config.max_num_batched_tokens, 0, 0
        for row in running:
            share = min(row.prompt, budget) if row.prompt else min(1, budget)
            budget -= share
            if row.prompt:
                row.prompt -= share
                prefill += share
                row.output -= not row.prompt
            else:
                decoding += 1
                row.output -= 1
        while waiting and budget > 0 and len(running) < config.max_num_seqs:
            row = waiting.pop(0)
            share = min(row.prompt, budget)
            row.prompt -= share
            row.output -= not row.prompt
            prefill += share
            budget -= share
            running.append(row)
        at_s += config.cost.step_s(prefill, decoding)
        running = [row for row in running if row.output > 0 or row.prompt]
    return at_s - now_s


def _uncached(server: Server, hashes: list[int], tokens: int) -> int:
    hits = server.engine.pool.match(hashes, (tokens - 1) // BLOCK_TOKENS)
    return tokens - len(hits) * BLOCK_TOKENS
